"""What every Catalog promises of generations that are changed after their commit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from services.chassis.errors import Reason, ServiceError
from services.snapshots.generations import AgentState, Claim, Deletion, Snapshot
from services.snapshots.records import microseconds
from services.snapshots.store import RECORDS_KEPT, Catalog, Entry
from tests.contract.snapshots.catalog_suite import OTHER, OWNER, commit, reason
from tests.support.snapshot_values import INSTANCE, NAME, at, snapshot


def held(made: Snapshot) -> Snapshot:
    return replace(made, hold=True, revision=made.revision + 1)


def released(made: Snapshot) -> Snapshot:
    return replace(made, hold=False, revision=made.revision + 1)


def deleted(made: Snapshot, purge_s: float = 1000) -> Snapshot:
    deletion = Deletion(at(500), at(purge_s))
    return replace(made, deletion=deletion, revision=made.revision + 1)


def undeleted(made: Snapshot) -> Snapshot:
    return replace(made, deletion=None, revision=made.revision + 1)


async def numbers(catalog: Catalog, **wanted: Any) -> list[int]:
    return [entry.generation for entry in await catalog.entries(NAME, **wanted)]


class HistorySuite:
    """Subclasses supply `catalog`, empty."""

    @pytest.fixture
    async def three(self, catalog: Catalog) -> list[Snapshot]:
        """Generations of an agent that has an owner."""
        await catalog.advance(NAME, OWNER)
        return [await commit(catalog, snapshot(n)) for n in (1, 2, 3)]

    async def hold(self, catalog: Catalog, made: Snapshot) -> Snapshot:
        assert await catalog.revise(NAME, made, held(made))
        return held(made)

    async def test_what_is_held_is_not_dropped(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """Retention passes it over, and is told which ones are gone."""
        await self.hold(catalog, three[0])

        assert [2] == list(await catalog.drop(NAME, [1, 2, 3]))
        assert [2] == list(await catalog.drop(NAME, [1, 2])), "it may be repeated"

        assert [3, 1] == await numbers(catalog)

    async def test_what_is_held_is_not_deleted(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """Neither alone nor with all; which one it is, is said."""
        await self.hold(catalog, three[1])

        for wanted in (2, None):
            with pytest.raises(ServiceError) as refused:
                await catalog.delete(NAME, wanted, Claim(1), None)
            assert Reason.SNAPSHOT_HELD is refused.value.reason
            assert {"generation": "2"} == refused.value.metadata
        assert [1] == list(await catalog.delete(NAME, 1, Claim(1), None))
        assert [3, 2] == await numbers(catalog)

    async def test_what_is_released_goes(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """A hold leaves nothing behind."""
        first = await self.hold(catalog, three[0])
        second = await self.hold(catalog, three[1])
        for each in (first, second):
            assert await catalog.revise(NAME, each, released(each))

        assert [1] == list(await catalog.drop(NAME, [1]))
        assert [2] == list(await catalog.delete(NAME, 2, Claim(1), None))
        assert [3] == list(await catalog.delete(NAME, None, Claim(1), None))

    async def test_a_held_head(self, catalog: Catalog, three: list[Snapshot]) -> None:
        """It stays held when others come after it, and its record is left to the blob
        store."""
        head = await self.hold(catalog, three[2])
        state, _ = await catalog.look(NAME)
        assert head == state.head
        await catalog.commit(snapshot(4), OWNER, 3, state.revision)
        await catalog.trim(NAME, [head])

        assert [1, 2] == list(await catalog.drop(NAME, [1, 2, 3]))

    async def test_an_older_record_is_not_written_over_a_later_one(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """Who read a record in the blob store before it was changed, and moved there
        again, learns of it."""
        stale = replace(three[0], epoch=9, revision=1)
        later = await self.hold(catalog, three[0])
        await catalog.trim(NAME, [later])

        assert not await catalog.revise(NAME, None, stale)
        assert await catalog.revise(NAME, None, released(later))

        assert [1] == list(await catalog.drop(NAME, [1]))

    async def test_adopted_holds_hold(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """What the records say is what counts, however old they are."""
        await self.hold(catalog, three[0])
        stored = [snapshot(n) for n in range(1, 200)]
        stored[4] = held(stored[4])

        assert await catalog.adopt(NAME, stored)

        gone = list(await catalog.drop(NAME, [1, 5, 6]))
        assert [1, 6] == gone
        refused = await reason(catalog.delete(NAME, 5, Claim(1), None))
        assert Reason.SNAPSHOT_HELD is refused

    async def delete(
        self, catalog: Catalog, made: Snapshot, purge_s: float = 1000
    ) -> Snapshot:
        gone = deleted(made, purge_s)
        assert await catalog.revise(NAME, made, gone, Claim(1), 3)
        return gone

    async def test_what_is_deleted_is_listed_on_request(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """Its record stays, also where it is left to the blob store; whoever asks for
        all finds it in its place, with the time when it is purged."""
        gone = await self.delete(catalog, three[1])

        assert [3, 1] == await numbers(catalog)
        assert [3, 2, 1] == await numbers(catalog, deleted=True)
        assert [2, 1] == await numbers(catalog, below=3, count=2, deleted=True)
        assert [2] == await numbers(catalog, below=3, count=1, deleted=True)
        [_, found, _] = await catalog.entries(NAME, deleted=True)
        created_us = microseconds(gone.create_time)
        assert Entry(2, created_us, microseconds(at(1000))) == found
        assert [gone] == await catalog.records(NAME, [2])
        await catalog.trim(NAME, [gone])
        assert [None] == await catalog.records(NAME, [2])
        assert [3, 2, 1] == await numbers(catalog, deleted=True)

    async def test_what_is_deleted_comes_back(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """As it was, for ever."""
        gone = await self.delete(catalog, three[0])

        assert await catalog.revise(NAME, gone, undeleted(gone))

        assert [3, 2, 1] == await numbers(catalog)
        found = await catalog.entries(NAME, deleted=True)
        assert [Entry(1, microseconds(gone.create_time))] == list(found)[2:]
        assert [] == list(await catalog.purge(NAME, microseconds(at(10**6))))

    async def test_deletion_is_fenced(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """As for good: by the epoch and the head, and never the head itself."""
        for made, claim, match, refused in (
            (three[0], Claim(), None, Reason.LEASE_FENCED),
            (three[0], Claim(2), None, Reason.LEASE_FENCED),
            (three[0], Claim(1), 2, Reason.GENERATION_MISMATCH),
            (three[2], Claim(1), None, Reason.GENERATION_MISMATCH),
            (three[2], Claim(1), 3, Reason.GENERATION_MISMATCH),
        ):
            call = catalog.revise(NAME, made, deleted(made), claim, match)
            assert refused is await reason(call)
        assert [3, 2, 1] == await numbers(catalog)

    async def test_a_hold_and_a_deletion_at_once(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """The later of the two finds another record than it read."""
        await self.hold(catalog, three[0])
        await self.delete(catalog, three[1])

        assert not await catalog.revise(NAME, three[0], deleted(three[0]))
        assert not await catalog.revise(NAME, three[1], held(three[1]))

    async def test_purged_when_its_time_has_come(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """Not a microsecond before, and not what was brought back."""
        await self.delete(catalog, three[0], 1000)
        second = await self.delete(catalog, three[1], 2000)
        now_us = microseconds(at(1000))

        assert [] == list(await catalog.purge(NAME, now_us - 1))
        assert [1] == list(await catalog.purge(NAME, now_us))
        assert [] == list(await catalog.purge(NAME, now_us))

        assert [3, 2] == await numbers(catalog, deleted=True)
        assert [None, second] == await catalog.records(NAME, [1, 2])
        refused = await reason(
            catalog.revise(NAME, None, replace(second, generation=1))
        )
        assert Reason.SNAPSHOT_NOT_FOUND is refused

    async def test_retention_leaves_the_deleted_alone(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """One that was deleted since the rounds began can be brought back still."""
        await self.delete(catalog, three[0])

        assert [2] == list(await catalog.drop(NAME, [1, 2]))

        assert [3, 1] == await numbers(catalog, deleted=True)

    async def test_the_deleted_go_for_good(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """On request alone, and with all others."""
        await self.delete(catalog, three[0])
        await self.delete(catalog, three[1])

        assert [1] == list(await catalog.delete(NAME, 1, Claim(1), None))
        assert [3, 2] == await numbers(catalog, deleted=True)
        gone = await catalog.delete(NAME, None, Claim(1), None)

        assert [2, 3] == sorted(gone)
        assert [] == await numbers(catalog, deleted=True)
        assert [] == list(await catalog.recent(NAME))

    async def test_adopted_deletions(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """The newest that is not deleted is the head, even if that was never so."""
        await self.delete(catalog, three[0])
        stored = [snapshot(1), deleted(snapshot(2)), snapshot(3), deleted(snapshot(4))]

        assert await catalog.adopt(NAME, stored)

        state, _ = await catalog.look(NAME)
        assert AgentState(1, last=4, head=stored[2], revision=1) == state
        assert [3, 1] == await numbers(catalog)
        assert [4, 3, 2, 1] == await numbers(catalog, deleted=True)
        assert await catalog.revise(NAME, stored[3], undeleted(stored[3]))
        state, _ = await catalog.look(NAME)
        assert 4 == state.head_generation

    async def test_adopts_only_deleted_ones(self, catalog: Catalog) -> None:
        """Then there is no head, and numbers go on."""
        await catalog.advance(NAME, OWNER)

        assert await catalog.adopt(NAME, [deleted(snapshot(5))])

        state, _ = await catalog.look(NAME)
        assert (5, 0) == (state.last, state.head_generation)
        await catalog.advance(NAME, Claim(2, INSTANCE, "boot-3"))
        await commit(catalog, snapshot(6), Claim(2), match=0)

    async def test_a_fence_leaves_no_owner(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """Whoever owned the agent writes no more; the next claim finds it free."""
        await catalog.fence(NAME)

        state, _ = await catalog.look(NAME)
        assert AgentState(2, last=3, head=three[2]) == state
        for claim in (OWNER, replace(OWNER, epoch=2)):
            refused = await reason(catalog.commit(snapshot(4), claim, 3))
            assert Reason.LEASE_FENCED is refused
        assert Reason.LEASE_FENCED is await reason(catalog.advance(NAME, OWNER))
        await catalog.advance(NAME, Claim(2, INSTANCE, "boot-2"))

    async def test_nobody_is_fenced_where_nobody_was(self, catalog: Catalog) -> None:
        """Those who write whole files without an epoch go on."""
        await commit(catalog, snapshot(1), Claim())

        await catalog.fence(NAME)

        await commit(catalog, snapshot(2), Claim())

    async def test_rebuilding_takes_the_records_word(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """Also where they know less; numbers are not used again, and nobody who wrote
        one of them goes on."""
        before, _ = await catalog.look(NAME)
        stored = [three[0], deleted(three[1])]

        assert await catalog.adopt(NAME, stored, before.changes)

        state, _ = await catalog.look(NAME)
        expected = AgentState(2, last=3, head=three[0], revision=before.revision + 1)
        assert expected == state
        assert [1] == await numbers(catalog)
        assert [2, 1] == await numbers(catalog, deleted=True)
        assert await catalog.adopt(NAME, [], state.changes)
        state, _ = await catalog.look(NAME)
        assert (3, None, 2) == (state.last, state.head, state.epoch)

    async def test_rebuilding_keeps_what_the_blob_store_lacks(
        self, catalog: Catalog
    ) -> None:
        """However old: until it is written there, it is nowhere else."""
        made = [snapshot(n) for n in range(1, RECORDS_KEPT + 4)]

        assert await catalog.adopt(NAME, made, 0, made[:1])

        assert [made[0], None, made[3]] == await catalog.records(NAME, [1, 2, 4])

    async def test_rebuilding_overwrites_no_change(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """What changed since the look is not undone, whatever it was."""
        for change in (
            lambda: self.hold(catalog, three[0]),
            lambda: self.delete(catalog, three[1]),
            lambda: catalog.purge(NAME, microseconds(at(1000))),
            lambda: catalog.commit(snapshot(4), OWNER, 3),
            lambda: catalog.drop(NAME, [3]),
            lambda: catalog.forget(NAME, [9]),
            lambda: catalog.adopt(NAME, [snapshot(5)]),
            lambda: catalog.delete(NAME, None, Claim(1), None),
        ):
            before, _ = await catalog.look(NAME)
            await change()
            assert not await catalog.adopt(NAME, three, before.changes)

    async def test_rebuilding_leaves_a_new_owner(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """Who claimed since the fence, on the head that stands; a commit that it began
        before is begun again."""
        await catalog.fence(NAME)
        owner = Claim(2, INSTANCE, "boot-2")
        before = await catalog.advance(NAME, owner)

        assert await catalog.adopt(NAME, three, before.changes)

        assert await catalog.commit(snapshot(4), owner, 3, before.revision) is None
        after, _ = await catalog.look(NAME)
        assert await catalog.commit(snapshot(4), owner, 3, after.revision)

    async def test_rebuilding_fences_who_built_on_another_head(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """What it hydrated from is not what stands now."""
        await catalog.fence(NAME)
        owner = Claim(2, INSTANCE, "boot-2")
        before = await catalog.advance(NAME, owner)

        assert await catalog.adopt(NAME, [*three, snapshot(4)], before.changes)

        refused = await reason(catalog.commit(snapshot(5), owner, 4))
        assert Reason.LEASE_FENCED is refused

    async def test_what_is_forgotten_does_not_come_back(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """A rebuilding that had read the records before they went is undone."""
        await catalog.delete(NAME, None, Claim(1), None)
        between, _ = await catalog.look(NAME)
        await catalog.adopt(NAME, [held(three[0]), *three[1:]], between.changes)

        await catalog.forget(NAME, [1, 2, 3])

        state, _ = await catalog.look(NAME)
        assert (3, None) == (state.last, state.head)
        assert [] == await numbers(catalog, deleted=True)
        assert [] == list(await catalog.recent(NAME))

    async def test_what_is_forgotten_is_known_to_be(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """Not what is deleted and can come back, nor what it may never have had."""
        assert [] == list(await catalog.forgotten(OTHER, [1]))
        await self.delete(catalog, three[0])
        await catalog.drop(NAME, [2])

        assert [2] == list(await catalog.forgotten(NAME, [1, 2, 3, 4]))
        await catalog.delete(NAME, None, Claim(1), None)

        assert [1, 2, 3] == list(await catalog.forgotten(NAME, [1, 2, 3, 4]))

    async def test_forgetting_spares_the_others(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """The newest of those that are left is the head."""
        await catalog.forget(NAME, [1, 3, 7])

        state, _ = await catalog.look(NAME)
        assert (3, three[1]) == (state.last, state.head)
        assert [2] == await numbers(catalog)

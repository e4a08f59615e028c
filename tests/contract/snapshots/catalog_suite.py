"""What every Catalog promises; test_catalogs.py runs it over the fake and Redis."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.snapshots.generations import AgentState, Claim, Origin, Snapshot
from services.snapshots.records import microseconds
from services.snapshots.store import RECORDS_KEPT, Catalog, Entry, Known
from tests.support.snapshot_values import INSTANCE, NAME, content, snapshot
from tests.support.tokens import TOWN

OTHER = AgentName(TOWN, "other")
OWNER = Claim(1, INSTANCE, "boot-1")
NEXT_OWNER = Claim(2, f"{INSTANCE}-b", "boot-9")


async def commit(
    catalog: Catalog,
    made: Snapshot,
    claim: Claim = OWNER,
    match: int | None = None,
) -> Snapshot:
    state, _ = await catalog.look(made.agent)
    done = await catalog.commit(made, claim, match, state.revision)
    assert done is not None
    return done


async def reason(call: Any) -> Reason:
    with pytest.raises(ServiceError) as refused:
        await call
    return refused.value.reason


class CatalogSuite:
    """Subclasses supply `catalog`, empty."""

    @pytest.fixture
    async def owned(self, catalog: Catalog) -> Catalog:
        """The agent has an owner."""
        await catalog.advance(NAME, OWNER)
        return catalog

    async def test_knows_nothing_at_first(self, catalog: Catalog) -> None:
        """An agent that was never seen has neither owner nor head, and can be read."""
        assert (AgentState(), None) == await catalog.look(NAME, "id")
        assert [] == list(await catalog.entries(NAME))
        assert [] == list(await catalog.recent(NAME))
        assert [None] == await catalog.records(NAME, [1])
        assert [] == await catalog.records(NAME, [])
        assert [] == list(await catalog.towns())
        assert [] == list(await catalog.agents(TOWN))

    async def test_advance_binds(self, catalog: Catalog) -> None:
        """The owner is remembered, and the agent is known from then on."""
        state = await catalog.advance(NAME, OWNER)

        assert AgentState(1, INSTANCE, "boot-1") == state
        assert (state, None) == await catalog.look(NAME)
        assert [TOWN] == list(await catalog.towns())
        assert [NAME.agent] == list(await catalog.agents(TOWN))

    async def test_advance_never_goes_back(self, owned: Catalog) -> None:
        """A lower epoch, or an equal one of somebody else, changes nothing."""
        await owned.advance(NAME, NEXT_OWNER)

        for late in (OWNER, replace(OWNER, epoch=2), Claim(2, INSTANCE, "boot-9")):
            assert Reason.LEASE_FENCED is await reason(owned.advance(NAME, late))

        state, _ = await owned.look(NAME)
        assert (2, NEXT_OWNER.instance) == (state.epoch, state.instance)

    async def test_advance_by_numbers(self, catalog: Catalog) -> None:
        """Epochs compare as numbers, up to the largest."""
        await catalog.advance(NAME, replace(OWNER, epoch=9))
        await catalog.advance(NAME, replace(OWNER, epoch=10))
        await catalog.advance(NAME, replace(OWNER, epoch=2**53 - 1))

        late = replace(NEXT_OWNER, epoch=2**53 - 2)
        assert Reason.LEASE_FENCED is await reason(catalog.advance(NAME, late))
        assert 2**53 - 1 == (await catalog.look(NAME))[0].epoch

    async def test_one_of_many_claimants_wins(self, catalog: Catalog) -> None:
        """Of equal epochs at the same time one gets the agent."""
        claims = [Claim(5, f"{INSTANCE}-{n}", "boot") for n in range(8)]

        won = await asyncio.gather(
            *(catalog.advance(NAME, claim) for claim in claims), return_exceptions=True
        )

        assert 7 == sum(isinstance(each, ServiceError) for each in won)

    async def test_commit_moves_the_head(self, owned: Catalog) -> None:
        """What was committed is the head, listed, recorded, and known by its id."""
        made = snapshot(1)

        assert made == await commit(owned, made, match=0)

        state, known = await owned.look(NAME, made.origin.upload_id)
        assert (1, made) == (state.last, state.head)
        assert Known(NAME.agent, 1) == known
        assert [1] == [entry.generation for entry in await owned.entries(NAME)]
        assert [made] == await owned.records(NAME, [1])
        assert [made] == list(await owned.recent(NAME))

    async def test_commit_keeps_every_byte(self, catalog: Catalog) -> None:
        """Records come back as they went in, whatever the text in them is."""
        strange = Origin("id", "räuber \N{SNOWMAN}", '"\\', "\x7f", (("ключ", "值"),))
        made = snapshot(1, origin=strange, content=content(deltas=16))

        await commit(catalog, made, Claim())

        assert [made] == await catalog.records(NAME, [1])

    async def test_commit_only_by_the_owner(self, owned: Catalog) -> None:
        """Neither an older epoch nor another instance or boot commits."""
        for claim in (
            Claim(),
            Claim(0),
            replace(OWNER, epoch=2),
            replace(OWNER, boot_id="boot-2"),
            replace(OWNER, instance=f"{INSTANCE}-b"),
        ):
            refused = await reason(owned.commit(snapshot(1), claim, None))
            assert Reason.LEASE_FENCED is refused
        assert 0 == (await owned.look(NAME))[0].last

    async def test_commit_before_any_owner(self, catalog: Catalog) -> None:
        """Whole files need no owner while there never was one."""
        await commit(catalog, snapshot(1), Claim())
        await commit(catalog, snapshot(2), Claim(0))

        for claim in (OWNER, replace(OWNER, epoch=None), replace(OWNER, epoch=0)):
            refused = await reason(catalog.commit(snapshot(3), claim, None))
            assert Reason.LEASE_FENCED is refused
        assert [NAME.agent] == list(await catalog.agents(TOWN))

    async def test_commit_under_the_epoch_alone(self, owned: Catalog) -> None:
        """A whole file may name the epoch and no instance."""
        await commit(owned, snapshot(1), Claim(1))

    async def test_commit_on_the_head_alone(self, owned: Catalog) -> None:
        """Another head than the expected one refuses, and is named."""
        await commit(owned, snapshot(1))

        with pytest.raises(ServiceError) as refused:
            await owned.commit(snapshot(2), OWNER, 0)

        assert Reason.GENERATION_MISMATCH is refused.value.reason
        assert {"generation": "1"} == refused.value.metadata

    async def test_commit_makes_the_number_after_the_last(self, owned: Catalog) -> None:
        """A number that is taken, or would leave a gap, commits nothing."""
        await commit(owned, snapshot(1))

        assert await owned.commit(snapshot(1), OWNER, None) is None
        assert await owned.commit(snapshot(3), OWNER, None) is None

        assert 1 == (await owned.look(NAME))[0].last

    async def test_the_same_upload_commits_once(self, owned: Catalog) -> None:
        """The id of a committed upload gives its generation, even to a late owner."""
        made = await commit(owned, snapshot(1))
        again = replace(snapshot(2), origin=made.origin)
        await owned.advance(NAME, NEXT_OWNER)

        assert made == await owned.commit(again, OWNER, None)

        assert 1 == (await owned.look(NAME))[0].last
        await owned.settle(NAME)

    async def test_an_upload_is_of_one_agent(self, owned: Catalog) -> None:
        """An id that another agent of the town used is known as that agent's."""
        made = await commit(owned, snapshot(1))

        _, known = await owned.look(OTHER, made.origin.upload_id)
        taken = await owned.commit(replace(made, agent=OTHER), Claim(), None)

        assert Known(NAME.agent, 1) == known
        assert taken is None

    async def test_one_of_many_commits_wins(self, owned: Catalog) -> None:
        """Of saves on the same head exactly one becomes the next generation."""
        done = await asyncio.gather(
            *(owned.commit(snapshot(1), OWNER, 0) for _ in range(8)),
            return_exceptions=True,
        )

        assert 1 == sum(isinstance(each, Snapshot) for each in done)
        assert 1 == (await owned.look(NAME))[0].last

    async def test_entries_by_pages(self, owned: Catalog) -> None:
        """Generations come newest first, from any point, as many as asked for."""
        for n in range(1, 13):
            await commit(owned, snapshot(n))

        found = [entry.generation for entry in await owned.entries(NAME)]
        page = [e.generation for e in await owned.entries(NAME, below=11, count=3)]

        assert list(range(12, 0, -1)) == found
        assert [10, 9, 8] == page
        assert [] == list(await owned.entries(NAME, below=1))

    async def test_entries_have_times(self, owned: Catalog) -> None:
        """A generation's time is known without its record, to the microsecond."""
        made = await commit(owned, snapshot(1))

        [entry] = await owned.entries(NAME)

        assert Entry(1, microseconds(made.create_time)) == entry

    async def test_delete_one(self, owned: Catalog) -> None:
        """A generation that is not the head goes; the others stay."""
        for n in (1, 2, 3):
            await commit(owned, snapshot(n))

        assert [2] == list(await owned.delete(NAME, 2, Claim(1), 3))

        assert [3, 1] == [entry.generation for entry in await owned.entries(NAME)]
        assert [None] == await owned.records(NAME, [2])
        refused = await reason(owned.delete(NAME, 2, Claim(1), None))
        assert Reason.SNAPSHOT_NOT_FOUND is refused
        refused = await reason(owned.delete(NAME, 3, Claim(1), None))
        assert Reason.GENERATION_MISMATCH is refused

    async def test_delete_all(self, owned: Catalog) -> None:
        """All go, their ids are forgotten, the epoch and the numbers are not."""
        made = [await commit(owned, snapshot(n)) for n in (1, 2, 3)]

        gone = await owned.delete(NAME, None, Claim(1), None)

        state, known = await owned.look(NAME, made[0].origin.upload_id)
        assert [1, 2, 3] == sorted(gone)
        emptied = AgentState(1, INSTANCE, "boot-1", last=3, revision=1)
        assert (emptied, None) == (state, known)
        assert [] == list(await owned.entries(NAME))
        assert [] == list(await owned.recent(NAME))
        assert [] == list(await owned.delete(NAME, None, Claim(1), 0))
        # One that was prepared on what is gone has to look again.
        assert await owned.commit(snapshot(4), OWNER, 0, 0) is None
        await commit(owned, snapshot(4), match=0)

    async def test_delete_is_fenced(self, owned: Catalog) -> None:
        """Deletion follows the rules of whole files."""
        await commit(owned, snapshot(1))

        for claim, match, refused in (
            (Claim(), None, Reason.LEASE_FENCED),
            (Claim(2), None, Reason.LEASE_FENCED),
            (Claim(1), 0, Reason.GENERATION_MISMATCH),
        ):
            found = await reason(owned.delete(NAME, None, claim, match))
            assert refused is found
        assert [] == list(await owned.delete(OTHER, None, Claim(), None))

    async def test_drop_spares_the_head(self, owned: Catalog) -> None:
        """Retention forgets what it names, except the head."""
        for n in (1, 2, 3):
            await commit(owned, snapshot(n))

        await owned.drop(NAME, [1, 3])
        await owned.drop(NAME, [])

        assert [3, 2] == [entry.generation for entry in await owned.entries(NAME)]
        assert 3 == (await owned.look(NAME))[0].head_generation

    async def test_trim_keeps_the_generations(self, owned: Catalog) -> None:
        """Records below a number go; the generations are still listed."""
        for n in (1, 2, 3):
            await commit(owned, snapshot(n))

        await owned.trim(NAME, list(await owned.recent(NAME))[:2])

        assert 3 == len(await owned.entries(NAME))
        assert [3] == [each.generation for each in await owned.recent(NAME)]
        found = await owned.records(NAME, [1, 3])
        assert [None, 3] == [each and each.generation for each in found]

    async def test_trim_keeps_what_was_changed(self, owned: Catalog) -> None:
        """A record that says more than what was moved out stays."""
        made = await commit(owned, snapshot(1))
        changed = replace(made, revision=1)
        await owned.revise(NAME, made, changed)

        await owned.trim(NAME, [made])

        assert [changed] == await owned.records(NAME, [1])

    async def test_revise_replaces_what_was_read(self, owned: Catalog) -> None:
        """The head's record is another one at once, wherever it is read."""
        made = await commit(owned, snapshot(1))
        changed = replace(made, content=content(deltas=3), revision=1)

        assert await owned.revise(NAME, made, changed)

        state, _ = await owned.look(NAME)
        assert changed == state.head
        assert [changed] == await owned.records(NAME, [1])
        assert await owned.revise(NAME, made, changed), "it may be repeated"

    async def test_revise_refuses_what_was_not_read(self, owned: Catalog) -> None:
        """Of two that read the same record, one replaces it."""
        made = await commit(owned, snapshot(1))
        changed = replace(made, revision=1)
        await owned.revise(NAME, made, changed)

        assert not await owned.revise(NAME, made, replace(made, revision=2))
        assert not await owned.revise(NAME, None, replace(made, revision=2))

        assert [changed] == await owned.records(NAME, [1])

    async def test_revise_takes_old_records_back(self, owned: Catalog) -> None:
        """A record that was left to the blob store can be changed as well."""
        made = await commit(owned, snapshot(1))
        await commit(owned, snapshot(2))
        await owned.trim(NAME, [made])

        assert not await owned.revise(NAME, made, replace(made, revision=1))
        assert await owned.revise(NAME, None, replace(made, revision=1))

        assert [replace(made, revision=1)] == await owned.records(NAME, [1])

    async def test_revise_needs_the_generation(self, owned: Catalog) -> None:
        """What was deleted does not come back by a change of its record."""
        made = await commit(owned, snapshot(1))
        await commit(owned, snapshot(2))
        await owned.drop(NAME, [1])

        for agent, old in ((NAME, made), (NAME, None), (OTHER, None)):
            refused = await reason(owned.revise(agent, old, replace(made, revision=1)))
            assert Reason.SNAPSHOT_NOT_FOUND is refused

    async def test_commit_on_the_record_that_was_read(self, owned: Catalog) -> None:
        """A commit that was made on a record that was replaced since changes nothing,
        and works on the one that stands there now."""
        made = await commit(owned, snapshot(1))
        before, _ = await owned.look(NAME)
        await owned.revise(NAME, made, replace(made, revision=1))
        after, _ = await owned.look(NAME)

        late = await owned.commit(snapshot(2), OWNER, 1, before.revision)
        right = await owned.commit(snapshot(2), OWNER, 1, after.revision)

        assert late is None
        assert right is not None

    async def test_adopt_replaces_what_is_older(self, owned: Catalog) -> None:
        """What the blob store knows better is taken over; nobody owns the agent."""
        lost = await commit(owned, snapshot(1))
        stored = [snapshot(n, epoch=n) for n in (1, 2, 4)]

        assert await owned.adopt(NAME, stored)

        state, known = await owned.look(NAME, stored[1].origin.upload_id)
        assert AgentState(epoch=4, last=4, head=stored[-1], revision=1) == state
        assert Known(NAME.agent, 2) == known
        assert (await owned.look(NAME, lost.origin.upload_id))[1] is None
        assert [4, 2, 1] == [entry.generation for entry in await owned.entries(NAME)]
        assert stored == list(await owned.recent(NAME))
        refused = await reason(owned.commit(snapshot(5), OWNER, None))
        assert Reason.LEASE_FENCED is refused
        await owned.advance(NAME, replace(NEXT_OWNER, epoch=4))

    async def test_adopt_never_goes_back(self, owned: Catalog) -> None:
        """A catalog that is newer than the blob store keeps what it has."""
        for n in (1, 2):
            await commit(owned, snapshot(n))

        assert not await owned.adopt(NAME, [snapshot(1)])

        assert 2 == (await owned.look(NAME))[0].head_generation

    async def test_adopt_many(self, catalog: Catalog) -> None:
        """A long history is taken over in one step, its records only in part."""
        stored = [snapshot(n) for n in range(1, 1500)]

        assert await catalog.adopt(NAME, stored)

        assert 1499 == len(await catalog.entries(NAME))
        assert RECORDS_KEPT == len(await catalog.recent(NAME))
        assert [NAME.agent] == list(await catalog.agents(TOWN))

    async def test_agents_do_not_mix(self, owned: Catalog) -> None:
        """What happens to one agent shows at no other."""
        await commit(owned, snapshot(1))
        far = AgentName("elsewhere", NAME.agent)
        await commit(owned, snapshot(1, agent=far), Claim())

        await owned.delete(far, None, Claim(), None)

        assert 1 == (await owned.look(NAME))[0].head_generation
        assert ["elsewhere", TOWN] == list(await owned.towns())

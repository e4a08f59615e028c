"""GetSnapshot, ListSnapshots, and DeleteSnapshot where it deletes for good."""

from __future__ import annotations

from typing import Any

import pytest

from services.chassis.names import AgentName
from services.snapshots.store import RECORDS_KEPT
from tests.contract.snapshots.conftest import Saves
from tests.support.snapshot_errors import reason_of, refusal
from tests.support.snapshot_frames import INSTANCE, NAME, Client
from tests.support.snapshots_world import World
from townkeeper.snapshots.v1 import snapshots_pb2 as pb

ABSENT = ("NOT_FOUND", "SNAPSHOT_NOT_FOUND")
MISMATCH = ("ABORTED", "GENERATION_MISMATCH")
MALFORMED = ("INVALID_ARGUMENT", "NAME_MALFORMED")


def numbers(page: pb.ListSnapshotsResponse) -> list[int]:
    return [snapshot.generation for snapshot in page.snapshots]


class TestGet:
    async def test_one_and_the_latest(self, saves: Saves) -> None:
        """A generation by its number, the newest by its alias, and the epoch."""
        first = await saves.base()
        second = await saves.delta()

        assert first == (await saves.client.get(1)).snapshot
        assert second == (await saves.client.get(2)).snapshot
        assert second == (await saves.client.get()).snapshot
        assert 1 == (await saves.client.get()).epoch
        assert first.etag != second.etag
        assert first.create_time.ToNanoseconds() <= second.create_time.ToNanoseconds()

    @pytest.mark.parametrize("generation", [1, "latest", 2**63 - 1])
    async def test_absent(self, client: Client, generation: int | str) -> None:
        """What never was is not found."""
        assert ABSENT == await reason_of(client.get(generation))

    @pytest.mark.parametrize(
        "generation", [0, -1, "01", "-", "", "x", "1/2", 2**63, "..", "Latest"]
    )
    async def test_malformed(self, client: Client, generation: int | str) -> None:
        """What is no generation is said to be none."""
        assert MALFORMED == await reason_of(client.get(generation))

    async def test_from_the_blob_store(self, world: World, saves: Saves) -> None:
        """Records that the catalog no longer keeps read the same."""
        first = await saves.base()
        await saves.delta()
        await world.forget_records()

        assert first == (await saves.client.get(1)).snapshot
        assert saves.file(1) == (await saves.client.download(1)).data


class TestList:
    async def test_newest_first_by_pages(self, client: Client) -> None:
        """Pages follow each other without gap or repetition, to an end."""
        for n in range(7):
            await client.upload_file(b"%d" % n)

        pages: list[list[int]] = []
        token = ""
        while not pages or token:
            page = await client.list(page_size=3, page_token=token)
            pages.append(numbers(page))
            token = page.next_page_token

        assert [[7, 6, 5], [4, 3, 2], [1]] == pages

    async def test_a_page_that_is_just_full(self, client: Client) -> None:
        """The last page says that it is the last."""
        for n in range(3):
            await client.upload_file(b"%d" % n)

        page = await client.list(page_size=3)

        assert ([3, 2, 1], "") == (numbers(page), page.next_page_token)

    async def test_none(self, client: Client) -> None:
        """An agent without snapshots lists none."""
        assert ([], "") == (
            numbers(await client.list()),
            (await client.list()).next_page_token,
        )

    async def test_a_page_goes_on_below_what_is_new(self, client: Client) -> None:
        """What is committed between two pages does not shift them."""
        for n in range(4):
            await client.upload_file(b"%d" % n)
        page = await client.list(page_size=2)
        await client.upload_file(b"new")

        rest = await client.list(page_size=2, page_token=page.next_page_token)

        assert [2, 1] == numbers(rest)

    async def test_default_and_largest_size(self, client: Client) -> None:
        """No size means fifty; more than five hundred means five hundred."""
        for n in range(51):
            await client.upload_file(b"%d" % n)

        assert 50 == len(numbers(await client.list()))
        assert 51 == len(numbers(await client.list(page_size=2**31 - 1)))

    @pytest.mark.parametrize(
        "wanted",
        [
            pytest.param({"page_token": "x"}, id="no base64"),
            pytest.param({"page_token": "eHh4"}, id="base64 of something"),
            pytest.param({"page_token": "\N{SNOWMAN}"}, id="no ASCII"),
            pytest.param({"page_size": -1}, id="negative size"),
        ],
    )
    async def test_refuses_bad_fields(
        self, client: Client, wanted: dict[str, Any]
    ) -> None:
        """A token that is not ours is refused, not taken for the beginning."""
        found = await reason_of(client.list(**wanted))

        assert ("INVALID_ARGUMENT", "FIELD_INVALID") == found

    async def test_a_token_of_another_agent(self, client: Client) -> None:
        """A token leads on in the list that it came from, in no other."""
        for n in range(2):
            await client.upload_file(b"%d" % n)
        token = (await client.list(page_size=1)).next_page_token

        other = Client(client.channel, f"{NAME}-2")

        found = await reason_of(other.list(page_token=token))
        assert ("INVALID_ARGUMENT", "FIELD_INVALID") == found


class TestDelete:
    async def test_one(self, world: World, saves: Saves) -> None:
        """One generation goes; those that share its segments stay."""
        await saves.base()
        await saves.delta()
        await saves.delta()

        assert 1 == await saves.client.delete(2, epoch=1, purge=True)
        await world.parts.sweeper.sweep()

        assert ABSENT == await reason_of(saves.client.get(2))
        for purge in (True, False):
            again = saves.client.delete(2, epoch=1, purge=purge)
            assert ABSENT == await reason_of(again)
        assert [3, 1] == numbers(await saves.client.list())
        assert saves.file(3) == (await saves.client.download()).data

    async def test_the_head_goes_only_with_all(self, saves: Saves) -> None:
        """No deletion of one generation moves the head back."""
        await saves.base()

        for purge in (True, False):
            error = await refusal(saves.client.delete(1, epoch=1, purge=purge))
            assert MISMATCH == (error.code.name, error.reason.name)
            assert {"generation": "1"} == error.metadata

    async def test_all(self, world: World, saves: Saves) -> None:
        """All generations go with their data; numbers are not used again."""
        await saves.base()
        await saves.delta()

        assert 2 == await saves.client.delete("-", epoch=1)
        assert 0 == await saves.client.delete("-", epoch=1)
        await world.parts.sweeper.sweep()

        assert {} == world.blobs.blobs
        assert ABSENT == await reason_of(saves.client.get())
        assert 2 == (await saves.client.advance(epoch=2)).generation
        answer = await saves.client.upload_file(b"new", epoch=2, if_generation_match=0)
        assert 3 == answer.generation

    @pytest.mark.parametrize("wanted", [{}, {"epoch": 1}, {"epoch": 3}])
    async def test_only_under_the_highest_epoch(
        self, client: Client, wanted: dict[str, Any]
    ) -> None:
        """A stale caller deletes nothing, and learns who owns the agent."""
        await client.advance(epoch=2)
        await client.upload_file(b"one", epoch=2)

        error = await refusal(client.delete("-", **wanted))

        assert "LEASE_FENCED" == error.reason.name
        assert {"epoch": "2", "holder": INSTANCE} == error.metadata
        assert b"one" == (await client.download()).data

    async def test_the_match_is_checked_as_well(self, client: Client) -> None:
        """What was saved meanwhile is not deleted unseen."""
        await client.upload_file(b"one")

        assert MISMATCH == await reason_of(client.delete("-", if_generation_match=2))
        assert MISMATCH == await reason_of(client.delete("-", if_generation_match=0))
        assert 1 == await client.delete("-", if_generation_match=1)

    @pytest.mark.parametrize("generation", ["latest", "0", "*", ""])
    async def test_malformed(self, client: Client, generation: str) -> None:
        """Deletion wants a number, or the word for all of them."""
        assert MALFORMED == await reason_of(client.delete(generation))


class TestSweep:
    async def test_old_records_leave_the_catalog(
        self, world: World, client: Client
    ) -> None:
        """The catalog keeps the newest records; all are listed all the same."""
        count = RECORDS_KEPT + RECORDS_KEPT // 2 + 1
        for n in range(count):
            await client.upload_file(b"%d" % n)

        await world.parts.sweeper.sweep()

        kept = await world.catalog.recent(AgentName.parse(NAME))
        assert RECORDS_KEPT == len(kept)
        listed = numbers(await client.list(page_size=500))
        assert list(range(count, 0, -1)) == listed

"""UpdateSnapshot: labels and holds, by whom, and what they hold up."""

from __future__ import annotations

from typing import Any

import pytest

from services.chassis.names import AgentName
from services.snapshots.reindex import reindex
from services.snapshots.store import RECORDS_KEPT
from tests.contract.snapshots.conftest import Saves
from tests.fakes.snapshot_catalog import MemoryCatalog
from tests.support.clock import ManualClock
from tests.support.faults import failing_once
from tests.support.snapshot_errors import reason_of, refusal
from tests.support.snapshot_frames import NAME, Client
from tests.support.snapshots_world import World, serving
from townkeeper.snapshots.v1 import snapshots_pb2 as pb
from townkeeper.snapshots.v1.resources_pb2 import Snapshot

DAY_S = 86_400
AGENT = AgentName.parse(NAME)
HELD = ("FAILED_PRECONDITION", "SNAPSHOT_HELD")
CHANGED = ("ABORTED", "ETAG_MISMATCH")


@pytest.fixture
def operator(world: World) -> Client:
    return world.client_with(world.tokens.operator())


async def update(
    client: Client, generation: int, paths: list[str] | None = None, **values: Any
) -> Snapshot:
    """Changes what is given, or what the paths name."""
    snapshot = Snapshot(name=f"{client.name}/snapshots/{generation}", **values)
    request = pb.UpdateSnapshotRequest(snapshot=snapshot)
    given = [path for path in values if path != "etag"]
    request.update_mask.paths.extend(given if paths is None else paths)
    return (await client.stub.UpdateSnapshot(request)).snapshot


class TestLabels:
    async def test_all_are_replaced(self, saves: Saves) -> None:
        """A container says what a generation is about; the rest stays as it was."""
        await saves.client.upload_file(b"1", epoch=1, labels={"old": "one"})
        before = (await saves.client.get(1)).snapshot

        found = await update(saves.client, 1, labels={"before": "the move", "x": ""})

        assert {"before": "the move", "x": ""} == dict(found.labels)
        assert found == (await saves.client.get(1)).snapshot
        assert before.etag != found.etag
        found.ClearField("labels")
        before.ClearField("labels")
        found.etag = before.etag
        assert before == found

    async def test_of_an_old_record(self, world: World, saves: Saves) -> None:
        """One that only the blob store has can be labelled, and has it there."""
        await saves.base()
        await saves.delta()
        await world.forget_records()

        await update(saves.client, 1, labels={"a": "b"})
        await world.forget_records()

        assert {"a": "b"} == dict((await saves.client.get(1)).snapshot.labels)

    async def test_the_head_goes_on(self, saves: Saves) -> None:
        """A save that was made before the label builds on what it was made on."""
        await saves.base()
        await update(saves.client, 1, labels={"a": "b"})
        await saves.delta()

        assert saves.file(2) == (await saves.client.download()).data
        assert {} == dict((await saves.client.get(2)).snapshot.labels)

    async def test_once(self, saves: Saves) -> None:
        """The same again changes nothing, whatever etag it names."""
        first = await saves.base()
        done = await update(saves.client, 1, labels={"a": "b"}, etag=first.etag)

        assert done == await update(saves.client, 1, labels={"a": "b"}, etag=first.etag)

    async def test_only_what_was_read(self, saves: Saves) -> None:
        """Of two that read the same record one changes it, if both ask for that."""
        first = await saves.base()
        await update(saves.client, 1, labels={"a": "b"}, etag=first.etag)

        late = update(saves.client, 1, labels={"c": "d"}, etag=first.etag)

        assert CHANGED == await reason_of(late)
        assert {"a": "b"} == dict((await saves.client.get(1)).snapshot.labels)

    async def test_an_answer_that_was_lost(self, world: World, saves: Saves) -> None:
        """Repeated, as our clients do, it has its record in the blob store as well."""
        await saves.base()
        tried = list[str]()
        fail = failing_once("swap")

        def struck(method: str, key: str) -> None:
            tried.append(method)
            fail(method)

        world.blobs.before = struck
        await update(saves.client, 1, labels={"a": "b"})
        assert 2 == tried.count("swap")

        world.catalog.__dict__.update(MemoryCatalog().__dict__)
        await reindex(world.catalog, world.blobs, AGENT)
        assert {"a": "b"} == dict((await saves.client.get(1)).snapshot.labels)

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            pytest.param({"paths": []}, "FIELD_REQUIRED", id="no mask"),
            pytest.param({"paths": ["epoch"]}, "FIELD_INVALID", id="not that"),
            pytest.param({"labels": {"": "x"}}, "FIELD_INVALID", id="no key"),
            pytest.param({"labels": {"x": "y" * 64}}, "FIELD_INVALID", id="too long"),
            pytest.param(
                {"labels": {f"{n}": "" for n in range(17)}}, "FIELD_INVALID", id="many"
            ),
        ],
    )
    async def test_what_cannot_be(
        self, saves: Saves, changes: dict[str, Any], reason: str
    ) -> None:
        """A label has its limits, and nothing else of a record changes."""
        first = await saves.base()

        found = await reason_of(update(saves.client, 1, **changes))

        assert ("INVALID_ARGUMENT", reason) == found
        assert first == (await saves.client.get(1)).snapshot

    async def test_of_nothing(self, saves: Saves) -> None:
        """A generation that is not there has no labels."""
        found = await reason_of(update(saves.client, 1, labels={"a": "b"}))

        assert ("NOT_FOUND", "SNAPSHOT_NOT_FOUND") == found


class TestHold:
    async def test_by_operators_alone(self, saves: Saves, operator: Client) -> None:
        """A container neither holds nor releases; labels beside it change nothing."""
        await saves.base()
        denied = ("PERMISSION_DENIED", "ROLE_INSUFFICIENT")

        for hold in (True, False):
            asked = update(saves.client, 1, labels={"a": "b"}, hold=hold)
            assert denied == await reason_of(asked)

        assert {} == dict((await saves.client.get(1)).snapshot.labels)
        assert (await update(operator, 1, hold=True)).hold
        assert (await saves.client.get(1)).snapshot.hold

    async def test_refuses_deletion(self, saves: Saves, operator: Client) -> None:
        """Of it, and of all, until it is released; the refusal says how."""
        await saves.base()
        await saves.delta()
        await update(operator, 1, hold=True)

        for wanted in ("1", "-"):
            error = await refusal(saves.client.delete(wanted, epoch=1))
            assert HELD == (error.code.name, error.reason.name)
            assert "release" in error.message
        assert saves.file(1) == (await saves.client.download(1)).data

        await update(operator, 1, hold=False)
        assert 2 == await saves.client.delete("-", epoch=1)

    async def test_outlives_retention(self, tmp_path: Any) -> None:
        """However old it is, also when its record lies in the blob store alone and
        the catalog was lost."""
        clock = ManualClock()
        async with serving(tmp_path, clock=clock) as world:
            client, operator = world.client, world.client_with(world.tokens.operator())
            for n in range(3):
                await client.upload_file(b"%d" % n)
            await update(operator, 2, hold=True)
            await world.forget_records()
            clock.advance(400 * DAY_S)
            await world.parts.sweeper.sweep(full=True)
            assert [3, 2] == await numbers(client)

            world.catalog.__dict__.update(MemoryCatalog().__dict__)
            await world.parts.sweeper.start()
            await world.parts.sweeper.sweep(full=True)

            assert [3, 2] == await numbers(client)
            assert b"1" == (await client.download(2)).data
            assert (await client.get(2)).snapshot.hold
            assert HELD == await reason_of(client.delete(2, epoch=0))

    async def test_lasts_when_the_record_moves(
        self, world: World, saves: Saves, operator: Client
    ) -> None:
        """Compaction and the move of old records to the blob store keep it."""
        await saves.base()
        await update(operator, 1, hold=True)
        for _ in range(20):
            await saves.delta()
        await update(operator, saves.generation, hold=True)
        await world.parts.compactor.compact(AGENT)
        for n in range(RECORDS_KEPT * 2):
            await saves.client.upload_file(b"%d" % n, epoch=1)
        await world.parts.sweeper.sweep()

        for held in (1, 21):
            assert (await saves.client.get(held)).snapshot.hold
            assert HELD == await reason_of(saves.client.delete(held, epoch=1))

    async def test_is_not_forked(
        self, world: World, saves: Saves, operator: Client
    ) -> None:
        """The other agent's generation is its own; labels go with it."""
        await saves.base()
        await update(operator, 1, hold=True, labels={"a": "b"})
        request = pb.ForkSnapshotRequest(
            name=f"{NAME}/snapshots/1",
            target=f"{NAME}-2",
            request_id="00000000-0000-4000-8000-000000000001",
        )

        forked = (await operator.stub.ForkSnapshot(request)).snapshot

        assert (False, {"a": "b"}) == (forked.hold, dict(forked.labels))


async def numbers(client: Client) -> list[int]:
    return [one.generation for one in (await client.list()).snapshots]

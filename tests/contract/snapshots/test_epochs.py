"""AdvanceEpoch: who owns an agent, and what it finds."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.snapshots.conftest import Saves
from tests.support.snapshot_errors import reason_of, refusal
from tests.support.snapshot_frames import BOOT, INSTANCE, OTHER_INSTANCE, Client
from tests.support.tokens import FOREIGN_TOWN
from townkeeper.snapshots.v1 import snapshots_pb2 as pb

FENCED = ("FAILED_PRECONDITION", "LEASE_FENCED")


class TestAdvanceEpoch:
    async def test_of_an_agent_without_snapshots(self, client: Client) -> None:
        """A fresh agent has no head, and is fenced all the same."""
        answer = await client.advance(epoch=3)

        assert not answer.HasField("head")
        assert 0 == answer.generation
        assert FENCED == await reason_of(client.advance(epoch=2))

    async def test_returns_the_head(self, saves: Saves) -> None:
        """The new owner learns what to hydrate from."""
        await saves.base()
        saved = await saves.delta()

        answer = await saves.client.advance(epoch=2, instance=OTHER_INSTANCE)

        assert saved == answer.head
        assert 2 == answer.generation

    async def test_may_be_repeated(self, client: Client) -> None:
        """The owner may ask again, as after a lost answer."""
        await client.advance(epoch=3)

        assert 0 == (await client.advance(epoch=3)).generation

    @pytest.mark.parametrize(
        "other",
        [
            pytest.param({"epoch": 2}, id="lower"),
            pytest.param({"epoch": 3, "instance": OTHER_INSTANCE}, id="instance"),
            pytest.param({"epoch": 3, "boot_id": "boot-2"}, id="boot"),
        ],
    )
    async def test_names_the_winner(
        self, client: Client, other: dict[str, Any]
    ) -> None:
        """Whoever comes late learns who was first."""
        await client.advance(epoch=3)

        error = await refusal(client.advance(**other))

        assert FENCED == (error.code.name, error.reason.name)
        assert {"epoch": "3", "holder": INSTANCE} == error.metadata

    async def test_a_fenced_owner_commits_nothing(self, saves: Saves) -> None:
        """From the moment of the call the old owner's saves are refused."""
        await saves.base()
        await saves.client.advance(epoch=2, instance=OTHER_INSTANCE)

        error = await refusal(saves.delta())

        assert FENCED == (error.code.name, error.reason.name)
        assert {"epoch": "2", "holder": OTHER_INSTANCE} == error.metadata
        assert 1 == (await saves.client.get()).snapshot.generation

    @pytest.mark.parametrize(
        ("changes", "refused"),
        [
            ({"epoch": 0}, "FIELD_REQUIRED"),
            ({"epoch": -1}, "FIELD_INVALID"),
            ({"epoch": 2**53}, "FIELD_INVALID"),
            ({"instance": ""}, "FIELD_REQUIRED"),
            ({"instance": "container-1"}, "NAME_MALFORMED"),
            ({"boot_id": ""}, "FIELD_REQUIRED"),
            ({"boot_id": "b" * 129}, "FIELD_INVALID"),
            ({"name": "towns/town-1"}, "NAME_MALFORMED"),
            ({"name": "towns/town-1/agents/.."}, "NAME_MALFORMED"),
        ],
    )
    async def test_refuses_bad_fields(
        self, client: Client, changes: dict[str, Any], refused: str
    ) -> None:
        """Each field that cannot be meant is named, and nothing is bound."""
        fields = {
            "name": client.name,
            "epoch": 1,
            "instance": INSTANCE,
            "boot_id": BOOT,
            **changes,
        }

        found = await reason_of(
            client.stub.AdvanceEpoch(pb.AdvanceEpochRequest(**fields))
        )

        assert ("INVALID_ARGUMENT", refused) == found

    async def test_an_instance_of_another_town(self, client: Client) -> None:
        """No container owns agents of a town that is not its own."""
        foreign = f"towns/{FOREIGN_TOWN}/instances/i"

        found = await reason_of(client.advance(instance=foreign))

        assert found[0] in ("PERMISSION_DENIED", "INVALID_ARGUMENT")

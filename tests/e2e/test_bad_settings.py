"""Supervisors that must not start: one message says why, and the town never hears of
them."""

from __future__ import annotations

import socket
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from tests.support.container import Container
from tests.support.plane import PlaneProcess
from tests.support.town import Town

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

_towns = count()


@pytest.fixture
def town(shared_plane: PlaneProcess) -> Town:
    """A town without a container."""
    return Town(shared_plane, f"settings-{next(_towns)}")


BAD_SETTINGS: Final[dict[str, tuple[dict[str, str], list[str]]]] = {
    "a placeholder": (
        {"GASTOWN_CONTAINER_TOKEN": "changeme", "GASTOWN_TOWN_ID": "<your-town>"},
        ["GASTOWN_CONTAINER_TOKEN", "GASTOWN_TOWN_ID", "placeholder"],
    ),
    "many at once": (
        {
            "TOWNKEEPER_REGISTRY_ADDR": "registry",
            "TOWNKEEPER_SNAPSHOTS_ADDR": "http://snapshots:50052",
            "TOWNKEEPER_INSTANCE": "../one",
            "TOWNKEEPER_KILO_BIN": "/no/such/kilo",
        },
        [
            "TOWNKEEPER_REGISTRY_ADDR",
            "TOWNKEEPER_SNAPSHOTS_ADDR",
            "TOWNKEEPER_INSTANCE",
            "TOWNKEEPER_KILO_BIN",
        ],
    ),
    "a file for a folder": (
        {"TOWNKEEPER_DATA_DIR": "/etc/passwd/data"},
        ["TOWNKEEPER_DATA_DIR", "/etc/passwd"],
    ),
    "a place where nothing can be written": (
        {"TOWNKEEPER_DATA_DIR": "/proc/townkeeper"},
        ["/proc/townkeeper", "TOWNKEEPER_DATA_DIR"],
    ),
    "keys that are not there": (
        {"TOWNKEEPER_KEYS_DIR": "/no/such/keys"},
        ["TOWNKEEPER_KEYS_DIR"],
    ),
    "a token that is none": (
        {"GASTOWN_CONTAINER_TOKEN": "a.b.c"},
        ["token", "GASTOWN_CONTAINER_TOKEN"],
    ),
}


class TestContainersThatCannotStart:
    @pytest.mark.parametrize("name", BAD_SETTINGS)
    def test_a_bad_setting_is_named(
        self, town: Town, tmp_path: Path, name: str
    ) -> None:
        """One short message, exit code 1, no instance of it known to the registry."""
        environ, words = BAD_SETTINGS[name]

        container = refuses_to_start(town, tmp_path / "c", **environ)

        assert [] == [word for word in words if word not in container.log()]
        assert 12 > len(container.log().splitlines())
        assert "Traceback" not in container.log()
        assert 503 == town.get("container/health").status_code

    def test_an_occupied_port_is_named(self, town: Town, tmp_path: Path) -> None:
        """Before the town hears of it."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            address = f"127.0.0.1:{other.getsockname()[1]}"
            container = refuses_to_start(
                town, tmp_path / "c", TOWNKEEPER_SUPERVISOR_ADDR=address
            )

        assert address in container.log()
        assert "Traceback" not in container.log()
        assert 503 == town.get("container/health").status_code

    def test_a_folder_in_use_is_refused(self, town: Town, tmp_path: Path) -> None:
        """Two supervisors on one disk would end each other's agents."""
        first = Container(town.plane, tmp_path / "c", town=town.name, slot="one")
        (tmp_path / "link").symlink_to(tmp_path / "c")
        with first:
            town.started("a", "--tick-s", "0.05")
            other = refuses_to_start(town, tmp_path / "link", TOWNKEEPER_INSTANCE="two")

            assert "running" == town.status("a")["status"]
            assert 1 == town.get("container/health").json()["instances"]
        assert "TOWNKEEPER_DATA_DIR" in other.log()

    def test_a_token_of_another_town_is_refused(
        self, town: Town, tmp_path: Path
    ) -> None:
        """It says so and ends; it does not try for ever."""
        token = town.plane.token("container", town="elsewhere")

        container = refuses_to_start(
            town, tmp_path / "c", GASTOWN_CONTAINER_TOKEN=token
        )

        assert "elsewhere" in container.log() or town.name in container.log()
        assert "Traceback" not in container.log()


def refuses_to_start(town: Town, root: Path, **environ: str) -> Container:
    """A container that ended without being ready; its log says why."""
    container = Container(town.plane, root, town=town.name, slot="one", **environ)
    try:
        assert "" == container.try_to_start()
        assert 1 == container.wait()
    finally:
        container.kill()
    return container

"""Containers and agents that must not start: what is said, and what stays as it was."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.container import Container
from tests.support.diary import read_diary
from tests.support.plane import PlaneProcess
from tests.support.town import DATABASE, RIG, Town
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


@pytest.fixture
def town(shared_plane: PlaneProcess, request: pytest.FixtureRequest) -> Town:
    """A town of its own for each test."""
    return Town(shared_plane, f"town-{abs(hash(request.node.name))}")


@pytest.fixture
def container(town: Town, tmp_path: Path) -> Iterator[Container]:
    """The town's only container."""
    with Container(
        town.plane, tmp_path / "container", town=town.name, slot="one"
    ) as container:
        yield container


def listed(town: Town) -> list[Any]:
    """The town's list of what must run."""
    return list(town.get("container-registry", kind="container").json()["data"])


class TestProgramsThatMayNotRun:
    @pytest.mark.parametrize(
        ("allowed", "command"),
        [
            pytest.param("", ["python3"], id="none is allowed"),
            pytest.param("/usr/bin/env", ["/bin/sh", "-c", "true"], id="another is"),
            pytest.param("env", ["./env"], id="one in its own folder"),
            pytest.param("env", ["/tmp/env"], id="one of that name elsewhere"),
        ],
    )
    def test_is_refused_and_not_recorded(
        self, town: Town, tmp_path: Path, allowed: str, command: list[str]
    ) -> None:
        """403 with the setting that would allow it; nothing waits to be started."""
        with Container(
            town.plane,
            tmp_path / "c",
            town=town.name,
            slot="one",
            TOWNKEEPER_EXEC=allowed,
        ) as container:
            refused = town.start("a", command=command, envVars={"PATH": "/tmp"})
            processes = container.processes()

        assert 403 == refused.status_code
        assert "EXEC_DISABLED" == refused.headers["x-townkeeper-reason"]
        assert "TOWNKEEPER_EXEC" in refused.json()["error"]
        assert [] == listed(town)
        assert [container.slot] == [container.slot for _ in processes]


class TestProgramsThatAreMissing:
    def test_of_a_kilo_that_is_not_installed(self, town: Town, tmp_path: Path) -> None:
        """409 with both cures; the intent is kept, with what went wrong."""
        with Container(
            town.plane, tmp_path / "c", town=town.name, slot="one", HOME=str(tmp_path)
        ):
            refused = town.start(
                "a", runtime="kilo", lightweight=True, command=[], database=""
            )
            status = town.status("a")

        assert 409 == refused.status_code, refused.text
        assert "RUNTIME_MISSING" == refused.headers["x-townkeeper-reason"]
        assert "townkeeper runtime install kilo" in refused.json()["error"]
        assert "TOWNKEEPER_KILO_BIN" in refused.json()["error"]
        assert "failed" == status["status"]
        assert "kilo" in status["error"]

    @pytest.mark.parametrize("command", ["/no/such/program", "no-such-program", "/"])
    def test_of_a_command_that_is_not_there(
        self, town: Town, container: Container, command: str
    ) -> None:
        """It is named, with the folder it was looked for from; nothing runs."""
        refused = town.start("a", command=[command])

        assert 409 == refused.status_code
        assert "RUNTIME_MISSING" == refused.headers["x-townkeeper-reason"]
        assert command in refused.json()["error"]
        assert 1 == len(container.processes())
        # Corrected, the same agent starts.
        assert 201 == town.start("a").status_code


class TestPathsThatLeadElsewhere:
    @pytest.fixture
    def treasure(self, town: Town, container: Container) -> Path:
        """The database of an agent that minds its own business."""
        town.started("owner")
        town.said("owner", "my secret")
        town.wait_settled("owner")
        return container.home("owner") / DATABASE

    def test_a_database_that_is_a_link_is_not_followed(
        self, town: Town, container: Container, treasure: Path
    ) -> None:
        """400; not a byte of what it points to is saved as this agent's."""
        home = container.home("thief")
        home.mkdir(parents=True)
        (home / DATABASE).symlink_to(treasure)
        before = read_diary(treasure)

        refused = town.start("thief")

        assert 400 == refused.status_code
        assert "FIELD_INVALID" == refused.headers["x-townkeeper-reason"]
        assert "link" in refused.json()["error"]
        assert [] == town.generations("thief")
        assert before == read_diary(treasure)

    def test_a_folder_on_the_way_that_is_a_link_is_not_followed(
        self, town: Town, container: Container, treasure: Path
    ) -> None:
        """As little as the file itself."""
        home = container.home("thief")
        home.mkdir(parents=True)
        (home / "data").symlink_to(treasure.parent)

        refused = town.start("thief", database=f"data/{DATABASE}")

        assert 400 == refused.status_code
        assert [] == town.generations("thief")

    def test_a_database_that_becomes_a_link_is_saved_no_more(
        self, town: Town, container: Container, treasure: Path
    ) -> None:
        """Swapped while the agent runs: its saves fail, the head stays its own."""
        town.started("thief", "--tick-s", "0.05")
        wait_until_sync(lambda: town.generations("thief"), what="a save", limit_s=30)
        mine = container.home("thief") / DATABASE
        log = '"event": "save.failed"'
        for path in (mine, *mine.parent.glob(f"{DATABASE}-*")):
            path.rename(path.with_name(f"old-{path.name}"))
        mine.symlink_to(treasure)
        wait_until_sync(lambda: log in container.log(), what="a refusal", limit_s=30)

        saved = town.saved("thief")
        assert ([], []) == (saved.ids, saved.gaps)
        assert saved.ticks
        assert ["my secret"] == [e.text for e in town.saved("owner").entries]

    @pytest.mark.parametrize("workdir", ["/etc", "../../outside", "/"])
    def test_a_stored_workdir_is_read_back_and_not_used(
        self, town: Town, tmp_path: Path, workdir: str
    ) -> None:
        """The container's own folder for the agent is used instead."""
        entry = {
            "agentId": "a",
            "request": {
                "agentId": "a",
                "rigId": RIG,
                "townId": town.name,
                "role": "polecat",
                "name": "a",
                "runtime": "exec",
                "command": ["/bin/sh", "-c", "pwd > where; exec sleep 1000"],
            },
            "workdir": workdir,
            "env": {},
        }
        stored = town.post("container-registry", kind="container", json=[entry])
        assert 200 == stored.status_code
        root = tmp_path / "container"
        with Container(town.plane, root, town=town.name, slot="one"):
            town.wait_status("a", "running")
            where = root / "workspaces/agents/a/where"
            wait_until_sync(where.exists, what="the program has begun")

            assert [entry] == listed(town)
            wait_until_sync(where.read_text, what="it says where it is")
            assert str(where.parent) == where.read_text().strip()


def damaged(sound: bytes) -> bytes:
    """A database in which a page of a table is noise."""
    return sound[:8192] + b"\xa5" * 4096 + sound[12288:]


NO_DATABASES: Final[dict[str, Callable[[bytes], bytes]]] = {
    "nothing": lambda sound: b"",
    "noise": lambda sound: b"\0\1\2" * 5000,
    "only a header": lambda sound: sound[:100],
    "cut short": lambda sound: sound[: len(sound) // 2],
    "damaged": damaged,
}


class TestSnapshotsThatAreNoDatabase:
    @pytest.fixture
    def sound(self, town: Town, container: Container) -> bytes:
        """The saved database of another agent."""
        town.started("other", "--tick-s", "0.001")
        wait_until_sync(
            lambda: len(town.saved("other").ticks) > 1000 if saved(town) else False,
            what="some pages",
            limit_s=30,
        )
        assert 200 == town.stop("other").status_code
        return saved(town)

    def test_none_is_started_from_and_none_is_lost(
        self, town: Town, container: Container, sound: bytes
    ) -> None:
        """The agent begins anew; the bytes stay what they were, as a generation."""
        for number, (name, make) in enumerate(NO_DATABASES.items()):
            agent, content = f"agent-{number}", make(sound)
            route = f"rigs/{RIG}/agents/{agent}/db-snapshot"
            posted = town.post(route, kind="container", content=content)
            assert 200 == posted.status_code, name

            record = town.started(agent)
            town.said(agent, "hello")
            town.wait_settled(agent)

            assert not record["resumed"], name
            assert ["hello"] == [e.text for e in town.saved(agent).entries], name
            first = town.get(f"{route}?generation=1", kind="container")
            assert content == first.content, name
            assert 200 == town.stop(agent).status_code

    def test_a_sound_one_is_started_from(
        self, town: Town, container: Container, sound: bytes
    ) -> None:
        """Or the test above would hold for an agent that never hydrates."""
        route = f"rigs/{RIG}/agents/heir/db-snapshot"
        posted = town.post(route, kind="container", content=sound)
        assert 200 == posted.status_code

        record = town.started("heir")

        assert record["resumed"]
        assert len(read_diary(container.home("heir") / DATABASE).ticks) > 1000


def saved(town: Town) -> bytes:
    """The other agent's newest generation; empty when there is none."""
    route = f"rigs/{RIG}/agents/other/db-snapshot"
    found = town.get(route, kind="container")
    return found.content if found.status_code == 200 else b""


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

    def test_a_folder_in_use_is_refused(self, town: Town, container: Container) -> None:
        """Two supervisors on one disk would end each other's agents."""
        town.started("a", "--tick-s", "0.05")
        other = Container(town.plane, container.root, town=town.name, slot="other")
        other._log = container.root.with_name("other.log")

        assert "" == other.try_to_start()
        assert 1 == other.wait()

        assert "TOWNKEEPER_DATA_DIR" in other.log()
        assert "running" == town.status("a")["status"]
        assert 1 == town.get("container/health").json()["instances"]

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

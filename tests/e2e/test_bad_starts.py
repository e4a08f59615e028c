"""Containers and agents that must not start: what is said, and what stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.container import Container
from tests.support.diary import read_diary
from tests.support.plane import PlaneProcess
from tests.support.town import DATABASE, RIG, Town
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


_towns = count()


@pytest.fixture
def town(shared_plane: PlaneProcess) -> Town:
    """A town without a container."""
    return Town(shared_plane, f"starts-{next(_towns)}")


@pytest.fixture(scope="module")
def container(
    shared_plane: PlaneProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Container]:
    """The only container of a town that many tests share."""
    root = tmp_path_factory.mktemp("shared") / "container"
    with Container(shared_plane, root, town="shared", slot="one") as container:
        yield container


@pytest.fixture
def shared(container: Container) -> Town:
    """That town; each test names agents of its own."""
    return Town(container.plane, container.town)


def listed(town: Town) -> list[Any]:
    """The town's list of what must run."""
    return list(town.get("container-registry", kind="container").json()["data"])


class TestProgramsThatMayNotRun:
    @pytest.mark.parametrize(
        ("allowed", "commands"),
        [
            pytest.param("", [["python3"], ["/bin/true"]], id="none is allowed"),
            pytest.param(
                "env",
                [["/bin/sh", "-c", "true"], ["./env"], ["/tmp/env"], ["ENV"]],
                id="another is",
            ),
        ],
    )
    def test_is_refused_and_not_recorded(
        self, town: Town, tmp_path: Path, allowed: str, commands: list[list[str]]
    ) -> None:
        """403 with the setting that would allow it; nothing waits to be started."""
        with Container(
            town.plane,
            tmp_path / "c",
            town=town.name,
            slot="one",
            TOWNKEEPER_EXEC=allowed,
        ) as container:
            answers = [
                town.start("a", command=command, envVars={"PATH": "/tmp"})
                for command in commands
            ]
            agents = container.agents()

        assert {403} == {refused.status_code for refused in answers}
        for refused in answers:
            assert "EXEC_DISABLED" == refused.headers["x-townkeeper-reason"]
            assert "TOWNKEEPER_EXEC" in refused.json()["error"]
        assert [] == listed(town)
        assert [] == agents


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
    def test_of_a_command_that_is_not_there(self, shared: Town, command: str) -> None:
        """It is named, with the folder it was looked for from; nothing runs."""
        agent = f"missing{command.replace('/', '.')}x"
        refused = shared.start(agent, command=[command])

        assert 409 == refused.status_code
        assert "RUNTIME_MISSING" == refused.headers["x-townkeeper-reason"]
        assert command in refused.json()["error"]
        assert "failed" == shared.status(agent)["status"]
        # Corrected, the same agent starts.
        assert 201 == shared.start(agent).status_code


class TestPathsThatLeadElsewhere:
    @pytest.fixture
    def treasure(self, shared: Town, container: Container) -> Path:
        """The database of an agent that minds its own business."""
        shared.started("owner")
        shared.said("owner", "my secret", "key")
        shared.wait_settled("owner")
        return container.home("owner") / DATABASE

    def test_a_database_that_is_a_link_is_not_followed(
        self, shared: Town, container: Container, treasure: Path
    ) -> None:
        """400; not a byte of what it points to is saved as this agent's."""
        home = container.home("linked")
        home.mkdir(parents=True)
        (home / DATABASE).symlink_to(treasure)
        before = read_diary(treasure)

        refused = shared.start("linked")

        assert 400 == refused.status_code
        assert "FIELD_INVALID" == refused.headers["x-townkeeper-reason"]
        assert "link" in refused.json()["error"]
        assert [] == shared.generations("linked")
        assert before == read_diary(treasure)

    def test_a_folder_on_the_way_that_is_a_link_is_not_followed(
        self, shared: Town, container: Container, treasure: Path
    ) -> None:
        """As little as the file itself."""
        home = container.home("lodger")
        home.mkdir(parents=True)
        (home / "data").symlink_to(treasure.parent)

        refused = shared.start("lodger", database=f"data/{DATABASE}")

        assert 400 == refused.status_code
        assert [] == shared.generations("lodger")

    def test_a_database_that_becomes_a_link_is_saved_no_more(
        self, shared: Town, container: Container, treasure: Path
    ) -> None:
        """Swapped while the agent runs: its saves fail, the head stays its own."""
        shared.started("swapper", "--tick-s", "0.05")
        wait_until_sync(
            lambda: shared.generations("swapper"), what="a save", limit_s=30
        )
        mine = container.home("swapper") / DATABASE
        log = '"event": "save.failed"'
        for path in (mine, *mine.parent.glob(f"{DATABASE}-*")):
            path.rename(path.with_name(f"old-{path.name}"))
        mine.symlink_to(treasure)
        wait_until_sync(lambda: log in container.log(), what="a refusal", limit_s=30)

        saved = shared.saved("swapper")
        assert ([], []) == (saved.ids, saved.gaps)
        assert saved.ticks
        assert ["my secret"] == [e.text for e in shared.saved("owner").entries]

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


@pytest.fixture(scope="module")
def sound(container: Container) -> bytes:
    """The saved database of another agent, of some pages."""
    town = Town(container.plane, container.town)
    town.started("other", "--tick-s", "0.001")
    wait_until_sync(lambda: 4 * 4096 < len(saved(town)), what="some pages", limit_s=60)
    assert 200 == town.stop("other").status_code
    return saved(town)


class TestSnapshotsThatAreNoDatabase:
    def test_none_is_started_from_and_none_is_lost(
        self, shared: Town, container: Container, sound: bytes
    ) -> None:
        """The agent begins anew; the bytes stay what they were, as a generation."""
        for number, (name, make) in enumerate(NO_DATABASES.items()):
            agent, content = f"agent-{number}", make(sound)
            route = f"rigs/{RIG}/agents/{agent}/db-snapshot"
            posted = shared.post(route, kind="container", content=content)
            assert 200 == posted.status_code, name

            record = shared.started(agent)
            shared.said(agent, "hello")
            shared.wait_settled(agent)

            assert not record["resumed"], name
            assert ["hello"] == [e.text for e in shared.saved(agent).entries], name
            first = shared.get(f"{route}?generation=1", kind="container")
            assert content == first.content, name
            assert 200 == shared.stop(agent).status_code

    def test_a_sound_one_is_started_from(
        self, shared: Town, container: Container, sound: bytes
    ) -> None:
        """Or the test above would hold for an agent that never hydrates."""
        route = f"rigs/{RIG}/agents/heir/db-snapshot"
        posted = shared.post(route, kind="container", content=sound)
        assert 200 == posted.status_code

        record = shared.started("heir")

        assert record["resumed"]
        assert read_diary(container.home("heir") / DATABASE).ticks


def saved(town: Town) -> bytes:
    """The other agent's newest generation; empty when there is none."""
    route = f"rigs/{RIG}/agents/other/db-snapshot"
    found = town.get(route, kind="container")
    return found.content if found.status_code == 200 else b""

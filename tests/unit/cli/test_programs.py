"""Where the plane listens, and what its programs are told."""

import socket
import stat
import tempfile
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from services.chassis.server import OPTIONS
from services.cli import embedded_valkey
from services.cli.layout import DataDir, Marking
from services.cli.problems import Problem
from services.cli.programs import Addresses, make_programs

MARKING = Marking("town-1", "embedded")


def test_port_zero_becomes_four_different_ports() -> None:
    """Free ports are chosen so that no two services get the same one."""
    with ExitStack() as stack:
        found = Addresses("127.0.0.1", 0, 0, 0, 0).reserved(stack)

    ports = {found.http, found.registry, found.snapshots, found.supervisor}
    assert 4 == len(ports - {0})


async def test_a_reserved_port_waits_for_its_service() -> None:
    """Ours may listen on it, again and again; nobody else is given it meanwhile."""
    with ExitStack() as stack:
        port = Addresses("127.0.0.1", 0, 0, 0, 0).reserved(stack).snapshots

        for _ in range(2):
            server = grpc.aio.server(options=OPTIONS)
            assert port == server.add_insecure_port(f"127.0.0.1:{port}")
            await server.start()
            await server.stop(None)
            with pytest.raises(OSError, match="in use"), socket.socket() as other:
                other.bind(("127.0.0.1", port))
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))


def test_an_occupied_port_is_named_with_its_option() -> None:
    """A port in use is refused before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken, ExitStack() as stack:
        port = taken.getsockname()[1]

        with pytest.raises(Problem, match=f":{port} .*choose another --snapshots-port"):
            Addresses("127.0.0.1", 0, 0, port, 0).reserved(stack)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param("127.0.0.1", "127.0.0.1:80", id="as given"),
        pytest.param("0.0.0.0", "127.0.0.1:80", id="any"),
        pytest.param("::", "[::1]:80", id="any of six"),
        pytest.param("::1", "[::1]:80", id="six"),
    ],
)
def test_callers_get_an_address_that_can_be_called(host: str, expected: str) -> None:
    """What is listened on everywhere is called on loopback."""
    assert expected == Addresses(host, 0, 0, 0, 0).to_call(80)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setenv("TOWNKEEPER_REDIS_URL", "redis://production")
    monkeypatch.setenv("TOWNKEEPER_JWKS_URL", "https://production/jwks")
    monkeypatch.setenv("TOWNKEEPER_KILO_BIN", "/opt/kilo")
    monkeypatch.setenv("GASTOWN_API_URL", "https://production")
    data = DataDir.at(tmp_path / "a folder")
    data.create(MARKING)
    minted = iter(["token-1", "token-2"])
    made = make_programs(
        data,
        Addresses("127.0.0.1", 1, 2, 3, 4),
        MARKING,
        "mark",
        lambda: next(minted),
        lambda: "service-token",
    )
    return {name: program.environ for name, program in made.items()}


def environment(programs: dict[str, object], name: str) -> dict[str, str]:
    environ = programs[name]
    assert callable(environ)
    return dict(environ())


def test_services_are_told_about_each_other(programs: dict[str, object]) -> None:
    """Everything a service needs comes from the data directory and the ports."""
    snapshots = environment(programs, "snapshots")

    assert snapshots["TOWNKEEPER_SNAPSHOTS_ADDR"] == "127.0.0.1:3"
    assert snapshots["TOWNKEEPER_REGISTRY_ADDR"] == "127.0.0.1:2"
    assert snapshots["TOWNKEEPER_REDIS_URL"].startswith("unix:///")
    assert snapshots["TOWNKEEPER_BLOB_URL"].endswith("/a%20folder/plane/blobs")


@pytest.mark.parametrize("name", ["snapshots", "gateway"])
def test_services_of_no_town_can_ask_what_was_revoked(
    programs: dict[str, object], name: str
) -> None:
    """With a token in a file that only its owner reads."""
    file = Path(environment(programs, name)["TOWNKEEPER_SERVICE_TOKEN_FILE"])

    assert "service-token" == file.read_text()
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)


def test_the_callers_own_stores_are_not_used(programs: dict[str, object]) -> None:
    """Settings of another plane in the shell do not leak into this one."""
    told = {
        value
        for name in programs
        for value in environment(programs, name).values()
        if "production" in value
    }

    assert set() == told
    assert "/opt/kilo" == environment(programs, "supervisor")["TOWNKEEPER_KILO_BIN"]


def test_each_start_of_the_supervisor_gets_a_fresh_token(
    programs: dict[str, object],
) -> None:
    """A plane that runs for a year still starts supervisors with good tokens."""
    first = environment(programs, "supervisor")["GASTOWN_CONTAINER_TOKEN"]
    second = environment(programs, "supervisor")["GASTOWN_CONTAINER_TOKEN"]

    assert ("token-1", "token-2") == (first, second)


def test_only_the_supervisor_holds_a_token(programs: dict[str, object]) -> None:
    """Nobody else needs the container's credential."""
    holders = {
        name
        for name in programs
        if "GASTOWN_CONTAINER_TOKEN" in environment(programs, name)
    }

    assert {"supervisor"} == holders


def test_a_socket_path_that_is_too_long_goes_elsewhere(tmp_path: Path) -> None:
    """The kernel takes 107 bytes; a deep directory works all the same."""
    deep = DataDir.at(tmp_path / ("d" * 120))
    path = embedded_valkey.socket_path(deep)

    assert len(str(path)) <= embedded_valkey.SOCKET_PATH_BYTES_MAX
    assert path == embedded_valkey.socket_path(deep)
    assert path != embedded_valkey.socket_path(DataDir.at(tmp_path / ("e" * 120)))


def test_a_socket_folder_of_others_is_refused(tmp_path: Path) -> None:
    """A folder that somebody else may have prepared holds no socket of ours."""
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)

    with pytest.raises(Problem, match="others may reach it"):
        embedded_valkey.make_socket_folder(folder / "valkey.sock")


def test_a_socket_folder_elsewhere_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had to be put outside the data directory is taken away at the end."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    deep = DataDir.at(tmp_path / ("d" * 120))
    path = embedded_valkey.socket_path(deep)
    embedded_valkey.make_socket_folder(path)
    assert path.parent.is_dir()

    embedded_valkey.remove_socket_folder(deep)

    assert not path.parent.exists()

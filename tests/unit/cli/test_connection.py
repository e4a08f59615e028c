"""Where commands find the services, and who they say they are."""

from pathlib import Path

import jwt
import pytest

from services.chassis.keys import KeyRing
from services.cli.layout import DataDir, Endpoints, Marking
from services.cli.main import run
from tests.support.canned_services import CannedServices
from townkeeper.registry.v1 import registry_pb2

LIST = ["agents", "list"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REGISTRY_ADDR", "SNAPSHOTS_ADDR", "TOKEN"):
        monkeypatch.delenv(f"TOWNKEEPER_{name}", raising=False)


@pytest.fixture
def data(tmp_path: Path, services: CannedServices) -> DataDir:
    """The directory of a plane that runs."""
    data = DataDir.at(tmp_path)
    data.create(Marking("town-1", "embedded"))
    KeyRing.create(data.keys)
    data.publish(Endpoints("town-1", "http://-", services.address, "-", "-"))
    services.answers["ListAgents"] = registry_pb2.ListAgentsResponse()
    return data


def test_a_data_directory_is_all_that_is_needed(
    services: CannedServices, data: DataDir
) -> None:
    """Addresses, town and credentials come from the plane's own directory."""
    assert 0 == run([*LIST, f"--data-dir={data.root}"])

    asked = services.asked(registry_pb2.ListAgentsRequest)
    token = services.authorization.removeprefix("Bearer ")
    claims = jwt.decode(token, options={"verify_signature": False})
    assert "towns/town-1" == asked.parent
    assert "operator" == claims["scope"]


def test_settings_in_the_environment_count(
    services: CannedServices, data: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Addresses and token can be set once for a shell."""
    monkeypatch.setenv("TOWNKEEPER_REGISTRY_ADDR", services.address)
    monkeypatch.setenv("TOWNKEEPER_TOKEN", "from-the-shell")

    assert 0 == run([*LIST, "--data-dir=/nonexistent", "--town=t"])

    assert "Bearer from-the-shell" == services.authorization


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        pytest.param([], 1, "start it with `townkeeper up`", id="no plane"),
        pytest.param(["--registry=h:1"], 2, "give --town", id="no town"),
        pytest.param(["--registry=h:1", "--town=t"], 2, "--token", id="no token"),
        pytest.param(
            ["--registry=h:1", "--town=a b"], 2, "use 1-128 of", id="bad town"
        ),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, capsys: Capture, options: list[str], code: int, words: str
) -> None:
    """A command that cannot reach anything says which option it needs."""
    assert code == run([*LIST, f"--data-dir={tmp_path}", *options])

    assert words in capsys.readouterr().err


@pytest.mark.parametrize("given", ["nonsense", "h:0", "h:99999", ":1", "http://h:1"])
def test_an_address_that_cannot_be_one_is_usage(capsys: Capture, given: str) -> None:
    """An address that was mistyped is said so, not tried for ten seconds."""
    assert 2 == run([*LIST, f"--registry={given}", "--town=t", "--token=t"])

    assert f"cannot use --registry {given!r}" in capsys.readouterr().err

"""How commands end: exit codes, and one line that says what to do."""

from collections.abc import Callable
from pathlib import Path

import jwt
import pytest

from services.chassis.keys import KeyRing
from services.cli.layout import DataDir
from services.cli.main import run

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    data = DataDir.at(tmp_path)
    KeyRing.create(data.keys)
    return data


@pytest.fixture
def mint(data: DataDir) -> Callable[..., int]:
    """`token mint` on a directory with keys."""

    def run_mint(*options: str) -> int:
        return run(["token", "mint", "--data-dir", str(data.root), *options])

    return run_mint


@pytest.mark.parametrize(
    ("options", "claims"),
    [
        pytest.param(
            ["--kind", "container"],
            {"scope": "container", "townId": "t"},
            id="container",
        ),
        pytest.param(
            ["--kind", "user", "--user", "ada"],
            {"scope": "user", "towns": ["t"], "userId": "ada"},
            id="user",
        ),
        pytest.param(
            ["--kind", "operator"], {"scope": "operator", "towns": ["t"]}, id="operator"
        ),
        pytest.param(
            ["--kind", "agent", "--rig", "r", "--agent", "a"],
            {"scope": "agent", "townId": "t", "rigId": "r", "agentId": "a"},
            id="agent",
        ),
    ],
)
def test_mint_prints_the_token_and_nothing_else(
    mint: Callable[..., int],
    capsys: Capture,
    options: list[str],
    claims: dict[str, str],
) -> None:
    """A token can be put into a variable as it is printed."""
    assert 0 == mint("--town", "t", "--ttl", "90s", *options)

    token = capsys.readouterr().out.removesuffix("\n")
    decoded = jwt.decode(token, options={"verify_signature": False})
    assert claims == {key: decoded[key] for key in claims}
    assert 90 == decoded["exp"] - decoded["iat"]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="nothing"),
        pytest.param(["--kind", "user"], id="no town"),
        pytest.param(["--kind", "root", "--town", "t"], id="unknown kind"),
        pytest.param(["--kind", "agent", "--town", "t"], id="agent without agent"),
        pytest.param(
            ["--kind", "agent", "--town", "t", "--agent", "a"], id="agent without rig"
        ),
        pytest.param(
            ["--kind", "container", "--town", "t", "--agent", "a"],
            id="container with agent",
        ),
        pytest.param(
            ["--kind", "operator", "--town", "t", "--user", "u"],
            id="operator with user",
        ),
        pytest.param(["--kind", "container", "--town", "../x"], id="bad town"),
        pytest.param(["--kind", "container", "--town", "*"], id="container for all"),
        pytest.param(
            ["--kind", "user", "--town", "t", "--ttl", "8"], id="ttl, no unit"
        ),
        pytest.param(
            ["--kind", "user", "--town", "t", "--ttl", "0s"], id="ttl of zero"
        ),
        pytest.param(["--kind", "user", "--town", "t", "--x"], id="unknown option"),
    ],
)
def test_mint_refuses_incomplete_combinations(
    mint: Callable[..., int], capsys: Capture, options: list[str]
) -> None:
    """A token that would be good for nothing is a usage error, said in one line."""
    assert 2 == mint(*options)

    captured = capsys.readouterr()
    assert "" == captured.out
    assert 1 == len(captured.err.splitlines())
    assert captured.err.startswith("cannot ")


def test_mint_without_keys_says_how_to_get_some(
    tmp_path: Path, capsys: Capture
) -> None:
    """A directory that no plane ever used has no keys, and is not given any."""
    arguments = ["token", "mint", "--kind", "user", "--town", "t"]
    assert 1 == run([*arguments, "--data-dir", str(tmp_path / "none")])

    assert "start `townkeeper up`" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["nonsense"], id="no such command"),
        pytest.param(["serve", "nonsense"], id="no such service"),
        pytest.param(["up", "--http-port", "70000"], id="no such port"),
        pytest.param(["up", "--town", "a/b"], id="no such town"),
    ],
)
def test_a_command_that_makes_no_sense_is_usage(
    capsys: Capture, arguments: list[str]
) -> None:
    """What cannot be meant ends with code 2 and one line."""
    assert 2 == run(arguments)

    assert 1 == len(capsys.readouterr().err.splitlines())


def test_help_lists_every_command(capsys: Capture) -> None:
    """`--help` names every command in words."""
    assert 0 == run(["--help"])

    out = capsys.readouterr().out
    assert all(word in out for word in ("up", "serve", "token", "Exit codes"))

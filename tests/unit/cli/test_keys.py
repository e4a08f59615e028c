"""`townkeeper keys`: list, rotate, prune, jwks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.chassis.jwks import parse_jwks
from services.chassis.keys import KeyRing
from services.cli.main import run

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def keys(folder: Path, capture: Capture, *arguments: str) -> Any:
    assert run(["keys", *arguments, f"--keys-dir={folder}", "--json"]) == 0
    return json.loads(capture.readouterr().out)


def test_a_folder_gets_its_first_key(folder: Path, capsys: Capture) -> None:
    """Which signs at once: there is nobody who knew another."""
    made = keys(folder, capsys, "rotate")

    assert "signs" == made["state"]
    assert made["kid"] == KeyRing.load(folder).kid


def test_a_new_key_is_published_first(folder: Path, capsys: Capture) -> None:
    """Then told to sign, then alone."""
    first = keys(folder, capsys, "rotate")["kid"]

    published = keys(folder, capsys, "rotate")
    assert "published" == published["state"]
    assert first == KeyRing.load(folder).kid

    told = keys(folder, capsys, "rotate", "--now")
    assert (published["kid"], "signs") == (told["kid"], told["state"])
    assert ["verifies", "signs"] == [
        one["state"] for one in keys(folder, capsys, "list")
    ]
    assert {"removed": []} == keys(folder, capsys, "prune")
    assert {"removed": [first]} == keys(folder, capsys, "prune", "--all")


def test_the_public_keys_are_printed(folder: Path, capsys: Capture) -> None:
    """All of them, the one that does not sign yet included, and nothing private."""
    keys(folder, capsys, "rotate")
    keys(folder, capsys, "rotate", "--lead", "1h")

    assert run(["keys", "jwks", f"--keys-dir={folder}"]) == 0
    printed = capsys.readouterr().out

    assert 2 == len(parse_jwks(printed.encode(), "the command"))
    assert '"d"' not in printed


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["rotate", "--now", "--lead=1h"], 2, "cannot rotate now and later"),
        (["rotate", "--lead=soon"], 2, "cannot use --lead 'soon'"),
        (["list"], 1, "cannot sign:"),
        (["prune"], 1, "cannot sign:"),
    ],
)
def test_refusals(
    folder: Path, capsys: Capture, arguments: list[str], code: int, text: str
) -> None:
    """One line that says what to do."""
    assert code == run(["keys", *arguments, f"--keys-dir={folder}"])
    assert capsys.readouterr().err.startswith(text)


def test_a_second_rotation_waits_for_the_first(folder: Path, capsys: Capture) -> None:
    """It says until when."""
    keys(folder, capsys, "rotate")
    keys(folder, capsys, "rotate")

    assert 1 == run(["keys", "rotate", f"--keys-dir={folder}"])
    assert "is published and signs from" in capsys.readouterr().err

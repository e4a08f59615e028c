"""docs/errors.md: every reason as it is in the code, and what its reader may do."""

import re

import pytest

from services.chassis.errors import Code, Reason
from tests.support.documents import ROOT

pytestmark = pytest.mark.docs

TEXT = (ROOT / "docs" / "errors.md").read_text("utf-8")
TABLE, KEPT = TEXT.split("## All reasons")[1].split("\nNot raised")
ROW = re.compile(
    r"^\| `([A-Z_]+)` \| `([A-Z_]+)` (\d+) \| (.+) \| (\w+) \| (\w+) \|$", re.MULTILINE
)
ROWS = ROW.findall(TABLE)
# Those that the chassis itself repeats: their rows must not tell otherwise.
PASSING = {Code.UNAVAILABLE.name}


def test_every_reason_has_its_row_in_order() -> None:
    """With the status that gRPC and HTTP give."""
    expected = [(one.name, one.code.name, str(one.http)) for one in Reason]

    assert expected == [row[:3] for row in ROWS]


def test_every_row_says_who_and_whether() -> None:
    """In the words that the page explains."""
    assert {"caller", "operator", "time", "us"} == {who for *_, who, _ in ROWS}
    assert {"no", "after", "yes"} == {retry for *_, retry in ROWS}
    assert [] == [row[0] for row in ROWS if not row[3].strip().endswith(".")]


def test_what_passes_by_itself_is_to_be_repeated() -> None:
    """What our own clients repeat, others should repeat as well."""
    assert [] == [row[0] for row in ROWS if row[1] in PASSING and row[5] != "yes"]


def test_what_nobody_raises_is_said() -> None:
    """Nobody should wait for an error that cannot come; a new use moves it up."""
    sources = [
        path.read_text("utf-8")
        for folder in (ROOT / "services").iterdir()
        if folder.is_dir()
        for path in (*folder.rglob("*.py"), *folder.rglob("*.lua"))
        if path != ROOT / "services" / "chassis" / "errors.py"
    ]
    raised = set(re.findall(r"Reason\.([A-Z_]+)\b", "\n".join(sources)))
    raised |= set(re.findall(r"refuse\('([A-Z_]+)'", "\n".join(sources)))

    assert {one.name for one in Reason} - raised == set(re.findall(r"`(\w+)`", KEPT))

"""What the contracts say of errors is what the table of reasons does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.chassis.errors import Reason

PROTOS = Path(__file__).parents[2] / "protos"
CODES = {reason.code.name for reason in Reason}
# Leading comments; in them a status code, then the reasons that come with it.
COMMENT = re.compile(r"(?:^ *//.*\n)+", re.MULTILINE)
WORD = re.compile(r"\b[A-Z][A-Z_]{3,}\b")


def promises(proto: Path) -> list[tuple[str, str]]:
    """Each pair of status code and reason in the comments of a file."""
    found = []
    for block in COMMENT.findall(proto.read_text()):
        code = ""
        _, _, errors = block.partition("Errors:")
        for word in WORD.findall(errors):
            if word in CODES:
                code = word
            elif word in Reason.__members__ and code:
                found.append((code, word))
    return found


SERVICES = [
    path for path in PROTOS.rglob("*.proto") if path.parent.parent.name != "errors"
]


@pytest.mark.parametrize("proto", SERVICES, ids=lambda path: path.stem)
def test_contracts_promise_what_the_table_does(proto: Path) -> None:
    """A reason stands beside the status code that it is sent with."""
    wrong = {
        f"{code} {reason} (is {Reason[reason].code.name})"
        for code, reason in promises(proto)
        if Reason[reason].code.name != code
    }

    assert wrong == set()


def test_reads_the_contracts() -> None:
    """The comments are still written in a way that this test understands."""
    found = {pair for proto in SERVICES for pair in promises(proto)}

    assert ("NOT_FOUND", "AGENT_NOT_FOUND") in found
    assert len(found) > 20

"""docs/rules.md and docs/differences.md: each rule and defect once, and no test that
does not exist."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.documents import ROOT

pytestmark = pytest.mark.docs

TESTS = ROOT / "tests"
HOLDS, _, MISSING = (
    (ROOT / "docs" / "rules.md").read_text("utf-8").partition("\n## Not yet\n")
)
DIFFERENCES = (ROOT / "docs" / "differences.md").read_text("utf-8")

DIFFERENCES_MAX = 15
RULES = [f"S{number}" for number in range(1, 55)]
DEFECTS = [
    f"D{number}"
    for first, last in ((1, 5), (9, 16), (27, 36), (40, 50))
    for number in range(first, last + 1)
]

Row = tuple[list[str], list[str]]  # ids, further cells


def rows(text: str) -> list[Row]:
    """Those of a table whose first cell holds ids."""
    found = re.findall(r"^\| ([SD]\d+(?:, [SD]\d+)*) \| (.+) \|$", text, re.MULTILINE)
    return [(ids.split(", "), rest.split(" | ")) for ids, rest in found]


def wrong_numbers(*texts: str) -> list[str]:
    """Ids that stand in none of the texts, in several places, or where none is due."""
    named = Counter(one for text in texts for ids, _ in rows(text) for one in ids)
    due = dict.fromkeys([*RULES, *DEFECTS], 1)
    return sorted(one for one in named | due if named[one] != due.get(one, 0))


def named_tests(text: str) -> list[tuple[str, str]]:
    """For each row of what holds, its ids and each test; an empty one where none is."""
    return [
        (ids[0], test)
        for ids, cells in rows(text)
        for test in re.findall(r"`([^`]+)`", cells[-1]) or [""]
    ]


def names_in(path: Path) -> Iterator[str]:
    """Names of a module's tests as pytest has them; nothing is run."""
    for node in ast.parse(path.read_text("utf-8")).body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name
            case ast.ClassDef():
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                        yield f"{node.name}::{inner.name}"


def exists(test: str) -> bool:
    """Whether `path::name` is one that pytest would collect."""
    path, _, name = test.partition("::")
    plain = name.rpartition("::")[2].startswith("test_")
    known = plain and (TESTS / path).is_file() and Path(path).name.startswith("test_")
    return known and name in set(names_in(TESTS / path))


def test_every_number_stands_once() -> None:
    """In one of the three tables."""
    assert [] == wrong_numbers(HOLDS, MISSING, DIFFERENCES)


def test_every_row_names_tests_that_exist() -> None:
    """A test that was renamed or removed takes its row along."""
    assert [] == [named for named in named_tests(HOLDS) if not exists(named[1])]


def test_nothing_that_is_missing_names_a_test() -> None:
    """What is tested belongs above; each row says what there is not."""
    assert [] == [ids for ids, cells in rows(MISSING) if len(cells) != 1]
    assert "::" not in MISSING


def test_differences_are_few_and_each_names_its_defect() -> None:
    """A long list would be another program."""
    found = rows(DIFFERENCES)

    assert 0 < len(found) <= DIFFERENCES_MAX
    assert [] == [ids for ids, cells in found if not re.fullmatch(r"D\d+", cells[0])]
    assert {3} == {len(cells) for _, cells in found}
    assert all(one.startswith("S") for ids, _ in found for one in ids)


@pytest.mark.parametrize(
    "test",
    [
        pytest.param("docs/test_rules.py::test_nowhere", id="no such test"),
        pytest.param("docs/test_nowhere.py::test_a", id="no such file"),
        pytest.param("docs/test_rules.py", id="a whole file"),
        pytest.param("docs/test_rules.py::exists", id="no test"),
        pytest.param("", id="none"),
    ],
)
def test_a_test_that_is_none_is_noticed(test: str) -> None:
    """The check would see it if a test was renamed."""
    assert not exists(test)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(lambda text: text.replace("| S8 |", "| S88 |"), 2, id="missing"),
        pytest.param(lambda text: text + "\n| S8 | x | `y` |\n", 1, id="twice"),
        pytest.param(lambda text: text + "\n| D6 | x | `y` |\n", 1, id="not due"),
    ],
)
def test_a_wrong_number_is_noticed(change: Callable[[str], str], expected: int) -> None:
    """The check would see it if one was forgotten or told of twice."""
    assert expected == len(wrong_numbers(change(HOLDS), MISSING, DIFFERENCES))

"""What the bench makes of its measurements, before anybody believes a table of them."""

import json
from pathlib import Path

import pytest

from bench.__main__ import parser
from bench.rows import Goal, Row, compare, write

LEAST = Goal("B6.rate", "a rate", 0.5, "× empty", at_least=True)
MOST = Goal("B5", "a time", 0.01, "× backup", at_least=False)


def test_the_value_is_the_median_of_the_pairs() -> None:
    """One pair in which the machine was busy says nothing."""
    row = compare(LEAST, [6, 6, 6, 6, 1], [10, 10, 10, 20, 10])

    assert 0.6 == row.value
    assert pytest.approx(0.5 / 0.6) == row.spread


@pytest.mark.parametrize(
    ("goal", "ratio", "met"),
    [
        pytest.param(LEAST, 0.5, True, id="just enough"),
        pytest.param(LEAST, 0.49, False, id="not enough"),
        pytest.param(MOST, 0.01, True, id="just not too much"),
        pytest.param(MOST, 0.011, False, id="too much"),
    ],
)
def test_a_target_is_a_least_or_a_most(goal: Goal, ratio: float, met: bool) -> None:
    """Whichever the goal says."""
    assert met == Row(goal, [ratio]).met


def test_few_runs_are_refused() -> None:
    """A median of less is a guess."""
    with pytest.raises(ValueError, match="cannot judge 4 runs"):
        compare(LEAST, [1] * 4, [1] * 4)


def test_runs_without_a_partner_are_refused() -> None:
    """A ratio of two different moments is none."""
    with pytest.raises(ValueError, match="argument"):
        compare(LEAST, [1] * 6, [1] * 5)


def test_the_file_is_as_programs_expect_it(tmp_path: Path) -> None:
    """Exactly these fields, missed targets included."""
    write([compare(MOST, [1, 1, 2, 2, 2], [4] * 5)], tmp_path / "results.json")

    expected = {
        "id": "B5",
        "value": 0.5,
        "target": 0.01,
        "unit": "× backup",
        "runs": 5,
        "spread": 0.5,
        "met": False,
    }
    assert {"rows": [expected]} == json.loads(
        (tmp_path / "results.json").read_text("utf-8")
    )


@pytest.mark.parametrize("words", [[], ["--full"], ["B1", "B7"]])
def test_parts_may_be_named_or_not(words: list[str]) -> None:
    """`make bench` names none."""
    assert [word for word in words if word != "--full"] == parser().parse_args(
        words
    ).ids


def test_a_part_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    """It says which there are."""
    with pytest.raises(SystemExit):
        parser().parse_args(["B9"])

    assert "none of B1, B2" in capsys.readouterr().err

"""Resource names: what is one, what is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import (
    GENERATION_MAX,
    AgentName,
    InstanceName,
    MessageName,
    RunName,
    SnapshotName,
    TownName,
    check_id,
)

NAMES: list[Any] = [TownName, AgentName, InstanceName, RunName, MessageName]
IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True).filter(
    lambda text: ".." not in text
)
GOOD_IDS = ["a", "7", "A.b_c-d", "a" * 128, "a.b.c", "0e", "a-"]
BAD_IDS = [
    pytest.param("", id="empty"),
    pytest.param("a" * 129, id="too long"),
    pytest.param(".a", id="leading dot"),
    pytest.param("-a", id="leading dash"),
    pytest.param("_a", id="leading underscore"),
    pytest.param("..", id="parent folder"),
    pytest.param("a..b", id="two dots"),
    pytest.param("a/b", id="slash"),
    pytest.param("a b", id="space"),
    pytest.param("a\n", id="trailing newline"),
    pytest.param("a\0", id="null byte"),
    pytest.param("{a}", id="hash tag"),
    pytest.param("a:b", id="colon"),
    pytest.param("a*", id="star"),
    pytest.param("ä", id="not ASCII"),
    pytest.param("\uff11", id="foreign digit"),
    pytest.param("a%2fb", id="escaped slash"),
]


@pytest.mark.parametrize("text", GOOD_IDS)
def test_good_ids_pass(text: str) -> None:
    """An id that keeps the rule comes back as it is."""
    assert check_id(text, "agent") == text


@pytest.mark.parametrize("text", BAD_IDS)
def test_bad_ids_are_refused(text: str) -> None:
    """Everything else is NAME_MALFORMED and says which id it was."""
    with pytest.raises(ServiceError, match="as agent id") as refused:
        check_id(text, "agent")

    assert refused.value.reason is Reason.NAME_MALFORMED
    assert refused.value.metadata["field"] == "agent"


@pytest.mark.parametrize("text", BAD_IDS)
@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.__name__)
def test_no_name_is_made_of_bad_ids(name: Any, text: str) -> None:
    """Neither parsing nor building lets a bad id through, wherever it stands."""
    fields = name.__match_args__
    for position in range(len(fields)):
        ids = ["ok"] * len(fields)
        ids[position] = text
        with pytest.raises(ServiceError) as refused:
            name(*ids)
        assert refused.value.reason is Reason.NAME_MALFORMED
        with pytest.raises(ServiceError):
            name.parse(name.FORMAT.format(**dict(zip(fields, ids, strict=True))))


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.__name__)
@given(data=st.data())
def test_parsing_undoes_formatting(name: Any, data: st.DataObject) -> None:
    """A name written and read is the same name."""
    ids = [data.draw(IDS) for _ in name.__match_args__]
    made = name(*ids)

    assert name.parse(str(made)) == made


@given(IDS, IDS, st.integers(1, GENERATION_MAX))
def test_parsing_undoes_formatting_generations(
    town: str, agent: str, generation: int
) -> None:
    """A generation written and read is the same generation."""
    made = SnapshotName(town, agent, generation)

    assert SnapshotName.parse(str(made)) == made


@given(st.text(st.characters(codec="ascii"), max_size=60))
def test_what_parses_is_written_the_same(text: str) -> None:
    """There is one spelling for one name."""
    for name in (*NAMES, SnapshotName):
        try:
            parsed = name.parse(text)
        except ServiceError:
            continue
        assert str(parsed) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "towns",
        "towns/",
        "/towns/a",
        "towns/a/",
        "Towns/a",
        "towns/a/agents/b",
        "towns//a",
        "town/a",
    ],
)
def test_malformed_town_names(text: str) -> None:
    """The refusal shows the form that was expected."""
    with pytest.raises(ServiceError) as refused:
        TownName.parse(text)

    assert refused.value.reason is Reason.NAME_MALFORMED


def test_the_format_is_in_the_refusal() -> None:
    """Whoever got it wrong is told what is right."""
    with pytest.raises(ServiceError) as refused:
        AgentName.parse("towns/a/agent/b")

    assert refused.value.metadata["format"] == "towns/{town}/agents/{agent}"


def test_a_refusal_quotes_little() -> None:
    """A megabyte in place of a name does not come back as a megabyte."""
    with pytest.raises(ServiceError) as refused:
        AgentName.parse("x" * 1_000_000)

    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "last",
    [
        "0",
        "-1",
        "+1",
        "01",
        "1.0",
        "1e3",
        "",
        " 1",
        "\u0661",
        "9" * 19,
        "9" * 20,
        "head",
    ],
)
def test_malformed_generations(last: str) -> None:
    """Generations are positive numbers with one spelling."""
    with pytest.raises(ServiceError) as refused:
        SnapshotName.parse(f"towns/a/agents/b/snapshots/{last}")

    assert refused.value.reason is Reason.NAME_MALFORMED


class TestLatest:
    NAME = "towns/a/agents/b/snapshots/latest"

    def test_counts_where_it_is_allowed(self) -> None:
        """A reader may ask for whatever is the head."""
        found = SnapshotName.parse(self.NAME, latest=True)

        assert found.latest
        assert str(found) == self.NAME

    def test_is_refused_elsewhere(self) -> None:
        """Nobody deletes `latest` by accident."""
        with pytest.raises(ServiceError):
            SnapshotName.parse(self.NAME)

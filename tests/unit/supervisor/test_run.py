"""States of a run, and when to try again."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.names import AgentName
from services.supervisor.run import (
    BACKOFF_MAX_S,
    CRASH_WINDOW_S,
    CRASHES_MAX,
    Crashes,
    Run,
    State,
    backoff_s,
)
from services.supervisor.specs import Role


def a_run(state: State) -> Run:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Run(AgentName("t", "a"), "r", Role.MAYOR, 1, now, state=state)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            "hydrating starting running stopping saving exited hydrating", id="a stop"
        ),
        pytest.param(
            "hydrating starting running saving backoff hydrating starting running",
            id="a crash",
        ),
        pytest.param("hydrating failed hydrating", id="a failed start"),
        pytest.param("hydrating starting running saving exited", id="completed"),
    ],
)
def test_lives_of_a_run(path: str) -> None:
    """Every life that the supervisor leads is in the table."""
    states = [State(word) for word in path.split()]
    for before, after in pairwise(states):
        run = a_run(before)

        run.move(after)

        assert after == run.state


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (State.RUNNING, State.EXITED),
        (State.RUNNING, State.BACKOFF),
        (State.EXITED, State.RUNNING),
        (State.HYDRATING, State.RUNNING),
    ],
)
def test_steps_that_skip_a_save_do_not_exist(before: State, after: State) -> None:
    """A running agent never ends without passing through a save."""
    with pytest.raises(AssertionError, match="cannot go from"):
        a_run(before).move(after)


@given(st.integers(1, 10_000))
def test_backoff_grows_to_a_minute(failures: int) -> None:
    """Each failure waits at least as long as the one before, at most a minute."""
    assert backoff_s(failures) <= backoff_s(failures + 1) <= BACKOFF_MAX_S


def test_a_quiet_window_forgets_crashes() -> None:
    """Only crashes in a row trip the breaker."""
    crashes = Crashes()
    for second in range(CRASHES_MAX - 1):
        crashes.record(float(second))
    assert not crashes.too_many

    crashes.record(CRASHES_MAX + CRASH_WINDOW_S + 1)

    assert 1 == crashes.count


def test_the_breaker_trips() -> None:
    """An agent that cannot live is given up after six crashes in a row."""
    crashes = Crashes()
    for second in range(CRASHES_MAX):
        crashes.record(float(second))

    assert crashes.too_many

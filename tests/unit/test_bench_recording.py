"""What the bench writes down of a session, before anybody counts its bytes."""

from contextlib import closing
from pathlib import Path

import pytest

from bench.recording import Camera, Recording, State, blank
from bench.sizes import at_turn_ends
from tests.support.sqlite import fill, opened, oracle


def replayed(states: list[State]) -> bytes:
    image = bytearray()
    for state in states:
        image = image.ljust(state.page_count * state.page_size, b"\0")
        del image[state.page_count * state.page_size :]
        for number, data in state.changed.items():
            at = (number - 1) * state.page_size
            image[at : at + state.page_size] = data
    return bytes(image)


@pytest.fixture
def live(tmp_path: Path) -> Path:
    return tmp_path / "live.db"


@pytest.fixture
def states(tmp_path: Path, live: Path) -> list[State]:
    """Two seconds; a turn that ends where the last second was; another turn, which
    empties the database; a second."""
    recorded = tmp_path / "recorded.db"
    with opened(live) as agent, closing(blank(recorded)) as target:
        fill(agent, 50)
        camera = Camera(live, target)
        camera.take(turn_end=False)
        fill(agent, 1)
        camera.take(turn_end=False)
        camera.take(turn_end=True)
        agent.execute("delete from t")
        agent.execute("vacuum")
        camera.take(turn_end=True)
        fill(agent, 2)
        camera.take(turn_end=False)
        camera.take(turn_end=False)
        camera.close()
        target.commit()
    return list(Recording(recorded).states())


def test_a_state_is_recorded_once_and_keeps_its_turns_end(states: list[State]) -> None:
    """A turn that changed nothing since the last look has ended all the same."""
    assert [False, True, True, False] == [state.turn_end for state in states]


def test_the_pages_that_differ_make_the_states_again(
    live: Path, states: list[State]
) -> None:
    """All of them in order, and few pages each."""
    assert oracle(live) == replayed(states)
    assert len(states[1].changed) < len(states[0].changed)
    assert states[2].page_count < states[1].page_count


def test_turn_ends_hold_what_came_between(states: list[State]) -> None:
    """Saved at turns' ends alone, the states are those of the turns' ends."""
    ends = list(at_turn_ends(states))

    assert 2 == len(ends)
    assert replayed(states[:2]) == replayed(ends[:1])
    assert replayed(states[:3]) == replayed(ends)

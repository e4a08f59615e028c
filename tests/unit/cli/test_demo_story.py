"""The demo's story: told to its end, and red as soon as anything does not hold."""

import io
import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from services.cli.demo_client import Answer
from services.cli.demo_story import Model, Outcome, Story
from services.cli.embedded import Embedded
from services.cli.identity import Identity
from services.cli.layout import DataDir, Endpoints
from services.cli.narrator import Narrator


@dataclass
class Town:
    """An agent in memory that keeps its word, but for what a test spoils."""

    session_id: str = "ses_1"
    resumed: bool = True
    messages: list[dict[str, Any]] = field(default_factory=list)
    shown: list[tuple[str, ...]] = field(default_factory=list)
    killed: bool = False
    spoil: Callable[["Town"], None] = lambda town: None

    # the client

    async def start(self, model: str, environment: Mapping[str, str]) -> dict[str, Any]:
        assert {"baseURL": "http://model/v1", "apiKey": "k"} == _options(environment)
        return {"sessionId": self.session_id}

    async def say(self, text: str) -> Answer:
        prompts = [one["text"] for one in self.messages if one["role"] == "user"]
        self.messages.append({"role": "user", "text": text})
        self.shown.append((*prompts, text))
        answer = f"The first was: {prompts[0]}" if prompts else "I see."
        self.messages.append({"role": "assistant", "text": answer})
        return Answer(answer)

    async def save(self) -> None:
        """All is durable here."""

    async def export(self, file: Path) -> None:
        file.unlink(missing_ok=True)
        with closing(sqlite3.connect(file)) as base, base:
            base.execute("create table message (id, session_id, data)")
            base.execute("create table part (id, message_id, session_id, data)")
            for number, one in enumerate(self.messages):
                data = json.dumps({"role": one["role"]})
                row = (number, self.session_id, data)
                base.execute("insert into message values (?, ?, ?)", row)
                part = json.dumps({"type": "text", "text": one["text"]})
                base.execute(
                    "insert into part values (?, ?, ?, ?)",
                    (number, number, self.session_id, part),
                )

    def forget_events(self) -> None:
        """There are none."""

    async def until_running(self, limit_s: float) -> dict[str, Any]:
        assert self.killed
        self.spoil(self)
        return {"sessionId": self.session_id, "resumed": self.resumed}

    # the plane

    async def kill_one(self, name: str) -> list[Identity]:
        self.killed = True
        return [Identity(1, 1, "another boot")]

    async def start_one(self, name: str) -> str:
        return ""

    # the model

    @property
    def calls(self) -> list[Any]:
        return [type("Call", (), {"prompts": prompts}) for prompts in self.shown]


def _options(environment: Mapping[str, str]) -> Any:
    config = json.loads(environment["KILO_CONFIG_CONTENT"])
    return config["provider"]["stand-in"]["options"]


async def tell(town: Town, folder: Path) -> Outcome:
    data = DataDir.at(folder / "data")
    (data.container / "agents").mkdir(parents=True)
    embedded = Embedded(data, town, Endpoints("t", "", "", "", ""))  # type: ignore[arg-type]
    model = Model("stand-in/m", "http://model/v1", "k", town)  # type: ignore[arg-type]
    narrator = Narrator(Console(file=io.StringIO()))
    story = Story(embedded, town, model, narrator)  # type: ignore[arg-type]
    outcome = await story.run(folder)
    assert [] == list(data.container.iterdir())
    return outcome


async def test_a_story_in_which_all_holds(tmp_path: Path) -> None:
    """With nothing lost there is nothing wrong, and the figures are told."""
    outcome = await tell(Town(), tmp_path)

    assert [] == outcome.wrong
    assert ("ses_1", 6, 1) == (
        outcome.session_id,
        outcome.messages,
        outcome.killed_processes,
    )


def _another_session(town: Town) -> None:
    town.session_id = "ses_2"


def _made_anew(town: Town) -> None:
    town.resumed = False


def _last_lost(town: Town) -> None:
    town.messages.pop()


def _one_changed(town: Town) -> None:
    town.messages[2] = town.messages[2] | {"text": "another"}


def _one_twice(town: Town) -> None:
    town.messages.append(town.messages[-1])


def _word_forgotten(town: Town) -> None:
    town.messages[0] = town.messages[0] | {"text": "nothing"}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(_another_session, "the session is ses_2", id="another session"),
        pytest.param(_made_anew, "not so: the session was resumed", id="made anew"),
        pytest.param(_last_lost, "message 5 (assistant) is missing", id="one lost"),
        pytest.param(_one_changed, "message 2 differs in parts", id="one changed"),
        pytest.param(_one_twice, "message 6 was not there", id="one twice"),
        pytest.param(_word_forgotten, "does not hold heron-", id="word forgotten"),
        pytest.param(_one_changed, "the model was shown", id="model saw less"),
    ],
)
async def test_a_story_in_which_something_is_wrong(
    tmp_path: Path, spoil: Callable[[Town], None], words: str
) -> None:
    """Whatever was lost on the way is told, so that the demo fails."""
    outcome = await tell(Town(spoil=spoil), tmp_path)

    assert any(words in one for one in outcome.wrong), outcome.wrong

"""The story that `townkeeper demo` tells: a conversation, a death, a return."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from services.cli.demo_client import AGENT, TownClient
from services.cli.demo_session import Stored, differences, read
from services.cli.embedded import Embedded
from services.cli.narrator import Narrator
from services.cli.problems import Problem
from services.cli.stand_in_model import StandInModel

BACK_S: Final = 60.0
YOU: Final = "you"


@dataclass(frozen=True, slots=True)
class Model:
    """What answers: the stand-in on loopback, or a real model."""

    name: str  # provider/model
    base_url: str
    key: str
    stand_in: StandInModel | None

    def configuration(self) -> str:
        """Kilo's own, with this one provider and nothing that needs a network."""
        provider, _, model = self.name.partition("/")
        return json.dumps(
            {
                "model": self.name,
                "small_model": self.name,
                "enabled_providers": [provider],
                "provider": {
                    provider: {
                        "npm": "@ai-sdk/openai-compatible",
                        "name": provider,
                        "options": {"baseURL": self.base_url, "apiKey": self.key},
                        "models": {model: _ABOUT_MODEL | {"name": model}},
                    }
                },
                "permission": "allow",
                "autoupdate": False,
                "share": "disabled",
                "snapshot": False,
                "lsp": False,
                "formatter": False,
            }
        )


_ABOUT_MODEL: Final[dict[str, Any]] = {
    "tool_call": True,
    "limit": {"context": 200_000, "output": 16_000},
}


@dataclass(slots=True)
class Outcome:
    """What came of one telling; `wrong` collects what did not hold."""

    session_id: str = ""
    messages: int = 0
    killed_processes: int = 0
    seconds_to_back: float = 0.0
    seconds_in_all: float = 0.0
    wrong: list[str] = field(default_factory=list)


class Story:
    """One telling of it."""

    def __init__(
        self, embedded: Embedded, client: TownClient, model: Model, tell: Narrator
    ) -> None:
        self._embedded = embedded
        self._client = client
        self._model = model
        self._tell = tell
        self._word = f"heron-{secrets.randbelow(9000) + 1000}"
        self.outcome = Outcome()

    async def run(self, folder: Path) -> Outcome:
        """The whole story; exports are put into the folder."""
        outcome = self.outcome
        begun = time.monotonic()
        session_id = await self._start()
        await self._converse()
        before = await self._export(folder / "before.db", session_id)
        self._tell.fact(
            f"saved: {len(before.messages)} messages, {before.tool_calls} tool calls"
        )
        await self._kill()
        back_s, status = await self._return()
        self._hold(status["resumed"] is True, "the session was resumed, not made anew")
        self._hold(
            status["sessionId"] == session_id,
            f"the same session: {session_id}",
            f"the session is {status['sessionId']}, it was {session_id}",
        )
        after = await self._export(folder / "after.db", status["sessionId"])
        self._compare(before, after)
        await self._remember(before)
        outcome.session_id, outcome.messages = session_id, len(before.messages)
        outcome.seconds_to_back = round(back_s, 1)
        outcome.seconds_in_all = round(time.monotonic() - begun, 1)
        self._tell.gap()
        self._tell.note(
            f"time to back: {outcome.seconds_to_back} s, "
            f"whole story: {outcome.seconds_in_all} s"
        )
        return outcome

    async def _start(self) -> str:
        with self._tell.step("starting the mayor, a real Kilo") as progress:
            environment = {"KILO_CONFIG_CONTENT": self._model.configuration()}
            record = await self._client.start(self._model.name, environment)
            session_id = str(record["sessionId"])
            progress(f"the mayor is ready: session {session_id}")
        return session_id

    async def _converse(self) -> None:
        self._tell.gap()
        for prompt in (
            f"Remember the word {self._word}: I shall ask you for it.",
            "Look at your workspace with your bash tool.\n"
            "run: git log --oneline\n"
            "run: uname -s",
            "Write a note with your write tool, then read it with bash.\n"
            "write note.txt: All is quiet in the town.\n"
            "run: cat note.txt",
        ):
            await self._say(prompt)
        self._tell.gap()

    async def _say(self, prompt: str) -> str:
        self._tell.say(YOU, prompt)
        answer = await self._client.say(prompt)
        if answer.tools:
            self._tell.say("", f"({AGENT} used {', '.join(answer.tools)})")
        self._tell.say(AGENT, answer.text or "(no words)")
        return answer.text

    async def _export(self, file: Path, session_id: str) -> Stored:
        await self._client.save()
        await self._client.export(file)
        return await asyncio.to_thread(read, file, session_id)

    async def _kill(self) -> None:
        with self._tell.step("SIGKILL to the whole container") as progress:
            killed = await self._embedded.plane.kill_one("supervisor")
            if alive := [one.pid for one in killed if one.alive]:
                raise Problem(f"cannot kill {alive}: look at them with ps")
            self.outcome.killed_processes = len(killed)
            container = self._embedded.data.container
            await asyncio.to_thread(shutil.rmtree, container)
            container.mkdir(mode=0o700)
            progress(
                f"SIGKILL to the whole container: {len(killed)} processes are dead "
                "(keeper, supervisor, agent), their disk is wiped"
            )

    async def _return(self) -> tuple[float, dict[str, Any]]:
        self._client.forget_events()
        begun = time.monotonic()
        with self._tell.step("a new container boots") as progress:
            await self._embedded.plane.start_one("supervisor")
            status = await self._client.until_running(BACK_S)
            progress("a new container booted, the mayor is back by itself")
        return time.monotonic() - begun, status

    def _compare(self, before: Stored, after: Stored) -> None:
        found = differences(before, after)
        self._hold(
            not found,
            f"all {len(before.messages)} messages are equal, part by part",
            "; ".join(found[:5]),
        )

    async def _remember(self, before: Stored) -> None:
        self._tell.gap()
        prompt = "Which word did I ask you to remember?"
        text = await self._say(prompt)
        self._tell.gap()
        self._hold(
            self._word in text,
            f"it knows the word: {self._word}",
            f"its answer does not hold {self._word}",
        )
        if self._model.stand_in is None:
            return
        shown = list(self._model.stand_in.calls[-1].prompts)
        self._hold(
            [*before.prompts, prompt] == shown,
            f"the model was shown all {len(before.prompts)} earlier prompts",
            f"the model was shown {shown}, not {[*before.prompts, prompt]}",
        )

    def _hold(self, holds: bool, fact: str, otherwise: str = "") -> None:
        if holds:
            self._tell.fact(fact)
        else:
            self.outcome.wrong.append(otherwise or f"not so: {fact}")
            self._tell.wrong(self.outcome.wrong[-1])

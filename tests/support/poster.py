"""Somebody who posts messages to an agent, one after the other, while things break."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

import httpx

from tests.support.town import Town
from tests.support.waiting import wait_until_sync

FIRST_S: Final = 30.0
# Between two posts, new or again: an agent can keep up with that.
PAUSE_S: Final = 0.1


def keys() -> Iterator[str]:
    """Ids for messages, each once."""
    return (f"message-{number}" for number in itertools.count())


def text_of(key: str) -> str:
    return f"text of {key}"


class Poster:
    """Posts until the block is left; what it was promised is in `accepted`.

    A `patient` one sends a message again, under the same id, until it is accepted. Any
    other stops at the first that fails and keeps its id as `unsure`: it may have been
    accepted, for only the answer is known to be missing.
    """

    def __init__(
        self, town: Town, agent: str, names: Iterator[str], *, patient: bool = False
    ) -> None:
        self.accepted: list[str] = []
        self.unsure: list[str] = []
        self._town = town
        self._agent = agent
        self._names = names
        self._patient = patient
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="poster")

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_for_more()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(60)

    def wait_for_more(self, limit_s: float = FIRST_S) -> None:
        """Returns when another message was accepted."""
        known = len(self.accepted)
        what = "a message is accepted"
        wait_until_sync(lambda: len(self.accepted) > known, what=what, limit_s=limit_s)

    def _run(self) -> None:
        for key in self._names:
            while not self._accepted(key):
                if not self._patient or self._stop.wait(PAUSE_S):
                    self.unsure.append(key)
                    return
            self.accepted.append(key)
            if self._stop.wait(PAUSE_S):
                return

    def _accepted(self, key: str) -> bool:
        try:
            reply = self._town.say(self._agent, text_of(key), key)
        except (httpx.TransportError, AssertionError):
            return False  # nobody answers, or nobody is there to be asked
        return reply.status_code == 200

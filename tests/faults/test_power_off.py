"""Everything dies at once, in the instant after messages were accepted.

Each round: messages are posted under ids of their own, one after the other; at a
random instant `up`, all services and the agents are killed and the container's disk is
wiped. Whoever posts has then an answer, or none. After the restart each message that
was answered for is stored once and answered, in the order of acceptance; those without
an answer are sent again under the same id, and are stored once as well.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from services.cli.runtimes import install_kilo
from services.cli.stand_in_model import StandInModel
from tests.support.kilo_session import (
    AGENT,
    check_integrity,
    read_session,
    start_mayor,
)
from tests.support.plane import PlaneProcess
from tests.support.poster import Poster, keys, text_of
from tests.support.town import Town
from townkeeper.registry.v1 import resources_pb2

pytestmark = pytest.mark.faults

SEED = int(os.environ.get("SEED") or 1)
# A turn takes 50 ms: kills fall before, within and after turns and their saves.
THINK_S = 0.05
KILL_WITHIN_S = 1.0
DELIVERED = resources_pb2.Message.STATE_DELIVERED
INTERRUPTED = resources_pb2.Message.STATE_INTERRUPTED


@pytest.mark.timeout(600)
def test_an_accepted_message_outlives_everything(tmp_path: Path) -> None:
    """However everything dies: stored once, answered, in order; repeats are no more."""
    dice = random.Random(SEED)
    rounds = int(os.environ.get("ROUNDS") or 4)
    names = keys()
    with PlaneProcess(tmp_path / "data") as plane:
        town = Town(plane)
        town.started("a", "--think-s", str(THINK_S))
        expected: list[str] = []
        for _ in range(rounds):
            with Poster(town, "a", names) as poster:
                time.sleep(dice.uniform(0.0, KILL_WITHIN_S))  # the instant of death
                plane.kill_everything(wipe=True)
            plane.start()
            for key in poster.unsure:
                town.said("a", text_of(key), key)
            expected += poster.accepted + poster.unsure
            town.wait_settled("a")

            messages, saved = town.messages("a"), town.saved("a")
            assert expected == list(messages)
            assert expected == saved.ids
            assert [] == saved.unanswered
            assert {DELIVERED} == {one.state for one in messages.values()}


def test_a_key_is_one_message_whoever_sends_it_again(tmp_path: Path) -> None:
    """Over HTTP, before and after everything died; other content is refused."""
    with PlaneProcess(tmp_path / "data") as plane:
        town = Town(plane)
        town.started("a")
        once = town.said("a", "hello", "key-1")
        again = town.said("a", "hello", "key-1")
        town.wait_settled("a")
        plane.kill_everything(wipe=True)
        plane.start()
        later = town.said("a", "hello", "key-1")
        other = town.say("a", "something else", "key-1")
        malformed = town.say("a", "hello", "../key")
        town.wait_settled("a")

        assert ["key-1"] * 3 == [once, again, later]
        assert (409, "MESSAGE_REUSED") == _refusal(other)
        assert (400, "NAME_MALFORMED") == _refusal(malformed)
        assert ["key-1"] == list(town.messages("a"))
        assert [("key-1", "hello")] == [(e.id, e.text) for e in town.saved("a").entries]


def _refusal(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.headers["x-townkeeper-reason"]


@pytest.mark.kilo
@pytest.mark.timeout(600)
def test_a_message_to_kilo_outlives_everything(tmp_path: Path) -> None:
    """Stored once in the same session; answered, or marked as interrupted."""
    dice = random.Random(SEED)
    rounds = min(int(os.environ.get("ROUNDS") or 1), 10)
    kilo = str(install_kilo())
    with (
        StandInModel() as model,
        PlaneProcess(tmp_path / "data", TOWNKEEPER_KILO_BIN=kilo) as plane,
    ):
        town = Town(plane)
        start_mayor(plane, model.url)
        texts = ["run: echo hello"]
        town.said(AGENT, texts[0])
        town.wait_settled(AGENT)
        session_id = plane.wait_running(AGENT).session_id
        for number in range(rounds):
            texts.append(f"round {number}\nrun: echo one\nslowly: 1")
            key = town.said(AGENT, texts[-1])
            time.sleep(dice.uniform(0.0, 3.0))  # the instant of death
            plane.kill_everything(wipe=True)
            plane.start()
            run = plane.wait_running(AGENT, limit_s=120)
            town.wait_settled(AGENT, limit_s=120)

            assert (session_id, True) == (run.session_id, run.resumed)
            outcome = town.messages(AGENT)[key].state
            assert outcome in {DELIVERED, INTERRUPTED}
            copy = tmp_path / "copy.db"
            copy.unlink(missing_ok=True)
            plane.run("snapshots", "export", AGENT, str(copy))
            assert "ok" == check_integrity(copy)
            session = read_session(copy)
            assert dict.fromkeys(texts, 1) == dict(Counter(session.texts))
            if outcome == DELIVERED:
                assert texts == list(model.calls[-1].prompts)

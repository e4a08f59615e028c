"""The stand-in model over HTTP, as a runtime's client library talks to it."""

import json
import subprocess
import sys
import threading

import httpx
import pytest

from services.cli.stand_in_model import StandInModel
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.integration


@pytest.fixture
def model():
    with StandInModel() as server:
        yield server


def ask(model, text, stream=False, **more):
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return httpx.post(
        f"{model.url}/chat/completions", json=body | {"stream": stream} | more
    )


def frames(answer):
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data:")]
    assert "[DONE]" == lines[-1]
    return [json.loads(line) for line in lines[:-1]]


def test_a_streamed_answer_is_the_whole_one(model):
    """Piece by piece the same text."""
    whole = ask(model, "hello").json()["choices"][0]["message"]["content"]

    deltas = [f["choices"][0]["delta"] for f in frames(ask(model, "hello", True))]

    assert whole == "".join(delta.get("content", "") for delta in deltas)


def test_a_streamed_tool_call_says_why_it_stops(model):
    """With arguments as JSON in a string."""
    first, call, last = frames(ask(model, "run: ls", stream=True))

    function = call["choices"][0]["delta"]["tool_calls"][0]["function"]
    assert "ls" == json.loads(function["arguments"])["command"]
    assert "tool_calls" == last["choices"][0]["finish_reason"]
    assert "assistant" == first["choices"][0]["delta"]["role"]


def test_what_it_saw_can_be_asked(model):
    """By a test in another process too; a request for a title is no prompt."""
    ask(model, "hello")
    ask(model, "Generate a title for this conversation:")

    told = httpx.get(f"http://127.0.0.1:{model.port}/calls").json()

    assert [["hello"]] == [call["prompts"] for call in told]
    assert [("hello",)] == [call.prompts for call in model.calls]


def test_an_answer_is_held_until_it_is_released(model):
    """So that a test can kill in the middle of it."""
    asked = threading.Thread(target=ask, args=(model, "hold", True))
    asked.start()
    wait_until_sync(lambda: model.holding)

    httpx.post(f"http://127.0.0.1:{model.port}/release")
    asked.join(timeout=5)

    assert not asked.is_alive()
    assert 0 == model.holding


def test_an_error_is_an_error(model):
    """With the status that was asked for."""
    assert 429 == ask(model, "fail: 429").status_code


def test_it_runs_as_a_program():
    """And says where it listens."""
    program = subprocess.Popen(
        [sys.executable, "-m", "services.cli.stand_in_model"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    try:
        word, _, url = program.stdout.readline().strip().partition(" ")
        models = httpx.get(f"{url}/models").json()
    finally:
        program.terminate()
        program.communicate(timeout=10)

    assert ("ready", "stand-in") == (word, models["data"][0]["id"])

"""The demo: what it compares, what it says, which model it takes."""

import io
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from services.cli.demo_session import Stored, differences, read
from services.cli.narrator import Narrator
from services.cli.problems import Problem
from services.cli.real_model import RealModel, real_model

MESSAGES = (
    {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "hello"}]},
    {"id": "m2", "role": "assistant", "parts": [{"type": "tool", "tool": "bash"}]},
)
BEFORE = Stored("ses_1", MESSAGES)


def test_a_session_is_read_as_it_was_stored(tmp_path: Path) -> None:
    """Messages come with their parts, in order, those of other sessions left out."""
    file = tmp_path / "kilo.db"
    with closing(sqlite3.connect(file)) as base, base:
        base.execute("create table message (id, session_id, data)")
        base.execute("create table part (id, message_id, session_id, data)")
        for one in MESSAGES:
            data = json.dumps({"role": one["role"]})
            row = (one["id"], "ses_1", data)
            base.execute("insert into message values (?, ?, ?)", row)
            part = (f"p-{one['id']}", one["id"], "ses_1", json.dumps(one["parts"][0]))
            base.execute("insert into part values (?, ?, ?, ?)", part)
        base.execute("insert into message values ('m9', 'ses_2', '{}')")

    found = read(file, "ses_1")

    assert BEFORE == found
    assert (["hello"], 1) == (found.prompts, found.tool_calls)


def test_an_equal_session_does_not_differ() -> None:
    """The same messages are no difference."""
    assert [] == differences(BEFORE, Stored("ses_1", MESSAGES))


@pytest.mark.parametrize(
    ("after", "words"),
    [
        pytest.param(Stored("ses_2", MESSAGES), "session ses_2", id="another session"),
        pytest.param(Stored("ses_1", MESSAGES[:1]), "m2 .* missing", id="one lost"),
        pytest.param(
            Stored("ses_1", (*MESSAGES, {"id": "m3", "role": "user", "parts": []})),
            "m3 was not there",
            id="one made up",
        ),
        pytest.param(
            Stored("ses_1", (MESSAGES[0] | {"parts": []}, MESSAGES[1])),
            "m1 differs in parts",
            id="one changed",
        ),
    ],
)
def test_whatever_differs_is_named(after: Stored, words: str) -> None:
    """Nothing that was lost, added or changed passes as the same."""
    [found] = differences(BEFORE, after)

    assert re.search(words, found)


@pytest.mark.parametrize(
    ("name", "base_url", "environ", "expected"),
    [
        pytest.param(None, None, {}, None, id="stand-in"),
        pytest.param(
            "openai/gpt",
            None,
            {"OPENAI_API_KEY": "k"},
            RealModel("openai/gpt", "https://api.openai.com/v1", "k"),
            id="well known",
        ),
        pytest.param(
            "my-own/m",
            "http://host/v1",
            {"MY_OWN_API_KEY": "k", "TOWNKEEPER_MODEL_KEY": "first"},
            RealModel("my-own/m", "http://host/v1", "first"),
            id="own",
        ),
    ],
)
def test_a_model_is_found_with_its_key(
    name: str | None,
    base_url: str | None,
    environ: dict[str, str],
    expected: RealModel | None,
) -> None:
    """A real model needs a name, an address and a key; none means the stand-in."""
    assert expected == real_model(name, base_url, environ)


@pytest.mark.parametrize(
    ("name", "base_url", "words"),
    [
        pytest.param("gpt", None, "provider/model", id="no provider"),
        pytest.param("mine/m", None, "--base-url", id="unknown provider"),
        pytest.param("openai/gpt", None, "OPENAI_API_KEY", id="no key"),
        pytest.param(None, "http://host", "--model", id="address alone"),
    ],
)
def test_a_model_that_cannot_be_reached_is_usage(
    name: str | None, base_url: str | None, words: str
) -> None:
    """What is missing for a real model is named before anything starts."""
    with pytest.raises(Problem, match=words) as refused:
        real_model(name, base_url, {})

    assert 2 == refused.value.code


def test_a_story_is_plain_text_where_there_is_no_terminal() -> None:
    """A log of the demo holds no control sequences."""
    page = io.StringIO()
    tell = Narrator(Console(file=page, highlight=False, soft_wrap=True))

    with tell.step("doing it") as progress:
        progress("did it")
    tell.say("you", "a [bold] word\nand " + "more " * 40)

    text = page.getvalue()
    assert "did it (0.0 s)" in text
    assert "a [bold] word" in text
    assert "\x1b" not in text
    assert 80 > max(map(len, text.splitlines()))

"""The stand-in model answers with what only a model that saw the history could say."""

import pytest

from services.cli.stand_in_script import decide, digest, read_call

TOOLS = [{"function": {"name": "bash"}}, {"function": {"name": "write"}}]


def call(*texts, results=(), tools=TOOLS):
    messages = [{"role": "system", "content": "be good"}]
    for text in texts:
        messages += [{"role": "user", "content": text}]
    messages += [{"role": "tool", "content": result} for result in results]
    return read_call({"model": "m", "messages": messages, "tools": tools})


def test_an_answer_proves_what_was_seen():
    """Number, digest and first words of the earlier prompts are in it."""
    text = decide(call("I am Ada", "hello", "who am I?")).text

    assert "I have seen 3 messages" in text
    assert digest(["I am Ada", "hello"]) in text
    assert 'The first was: "I am Ada"' in text


def test_details_that_a_runtime_adds_are_not_part_of_a_prompt():
    """Kilo adds time and folder to each prompt; they differ from run to run."""
    details = "<environment_details>\nnow\n</environment_details>"
    parts = [{"type": "text", "text": "hello"}, {"type": "text", "text": details}]

    seen = read_call({"messages": [{"role": "user", "content": parts}]})

    assert ("hello",) == seen.prompts


@pytest.mark.parametrize(
    ("prompt", "results", "tool", "arguments"),
    [
        pytest.param("run: ls", [], "bash", {"command": "ls"}, id="bash"),
        pytest.param(
            "do\nrun: a\nrun: b", ["x"], "bash", {"command": "b"}, id="second"
        ),
        pytest.param(
            "write a.txt: hi",
            [],
            "write",
            {"filePath": "a.txt", "content": "hi"},
            id="write",
        ),
    ],
)
def test_a_prompt_can_ask_for_tools(prompt, results, tool, arguments):
    """One call for each line, in order."""
    reply = decide(call(prompt, results=results))

    assert tool == reply.tool
    assert arguments.items() <= reply.arguments.items()


def test_after_its_tools_it_answers():
    """The last result is quoted."""
    assert 'The last tool said: "42"' in decide(call("run: x", results=["42"])).text


@pytest.mark.parametrize(
    ("prompt", "field", "expected"),
    [
        pytest.param("fail: 503", "status", 503, id="fail"),
        pytest.param("slowly: 2.5", "slowly_s", 2.5, id="slowly"),
        pytest.param("please\nhold", "hold", True, id="hold"),
        pytest.param("on hold we go", "hold", False, id="hold in a sentence"),
    ],
)
def test_a_prompt_can_ask_for_trouble(prompt, field, expected):
    """Errors, slowness and silence, on demand."""
    assert expected == getattr(decide(call(prompt)), field)


def test_a_long_answer_is_as_long_as_asked():
    """For sessions of a size."""
    assert len(decide(call("long: 5000")).text) > 5000

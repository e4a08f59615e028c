"""What the stand-in model answers: a pure function of the request it was sent.

Lines of the newest prompt direct it:

    run: COMMAND            call the bash tool            (one call for each line,
    write PATH: CONTENT     call the write tool            in order, then answer)
    slowly: SECONDS         spread the answer over that time
    hold                    stop half-way until released
    fail: STATUS            answer with that HTTP status
    long: CHARACTERS        answer with that much more text
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_ENVIRONMENT = re.compile(r"<environment_details>.*?</environment_details>", re.DOTALL)
_DIRECTIVE = re.compile(
    r"^\s*(?:(run|slowly|fail|long):\s*(.+)|write (\S+): (.*)|(hold)\s*)$", re.MULTILINE
)
_WORDS = (
    "every",
    "agent",
    "keeps",
    "its",
    "own",
    "long",
    "memory",
    "of",
    "the",
    "town",
)


@dataclass(frozen=True, slots=True)
class Call:
    """One request as the model saw it: what tests and the demo look at."""

    model: str
    prompts: tuple[str, ...]  # the texts of the user messages, oldest first
    messages: int  # of every role
    system: str
    tools: tuple[str, ...]
    tool_results: tuple[str, ...]
    streamed: bool
    title: bool  # it was asked only to name the conversation


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer: one tool call, or text, or an HTTP error."""

    text: str = ""
    tool: str = ""
    arguments: dict[str, str] = field(default_factory=dict)
    status: int = 200
    slowly_s: float = 0.0
    hold: bool = False


def digest(prompts: Sequence[str]) -> str:
    """A short name for a list of prompts; equal only for equal lists."""
    return hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()[:12]


def read_call(body: dict[str, Any]) -> Call:
    """The request body, reduced to what matters here."""
    messages = body.get("messages", [])
    system = "\n".join(_text(m) for m in messages if m.get("role") == "system")
    prompts = tuple(_text(m) for m in messages if m.get("role") == "user")
    after = _after_last_user(messages)
    return Call(
        model=str(body.get("model", "")),
        prompts=prompts,
        messages=len(messages),
        system=system,
        tools=tuple(t["function"]["name"] for t in body.get("tools") or ()),
        tool_results=tuple(_text(m) for m in after if m.get("role") == "tool"),
        streamed=bool(body.get("stream")),
        title=any("Generate a title" in prompt for prompt in prompts),
    )


def decide(call: Call) -> Reply:
    """What to answer: a pure function of what was seen."""
    if call.title or not call.prompts:
        return Reply(text="A conversation")
    orders = [match.groups() for match in _DIRECTIVE.finditer(call.prompts[-1])]
    named = {order[0]: order[1] for order in orders if order[0]}
    if "fail" in named:
        return Reply(status=int(named["fail"]))
    actions = [order for order in orders if order[0] == "run" or order[2]]
    done = len(call.tool_results)
    if done < len(actions):
        return _tool_reply(actions[done], call.tools)
    return Reply(
        text=answer(call) + _filler(int(named.get("long", "0"))),
        slowly_s=float(named.get("slowly", "0")),
        hold=any(order[4] for order in orders),
    )


def answer(call: Call) -> str:
    """Words that only somebody who was shown this history could say."""
    *earlier, last = call.prompts
    lines = [
        f"I have seen {len(call.prompts)} messages from you.",
        f"The earlier ones have the digest {digest(earlier)}.",
    ]
    if earlier:
        lines.append(f'The first was: "{_first_line(earlier[0])}"')
    if call.tool_results:
        lines.append(f'The last tool said: "{_first_line(call.tool_results[-1])}"')
    lines.append(f'Now you say: "{_first_line(last)}"')
    return "\n".join(lines)


def _tool_reply(action: tuple[str, ...], tools: Sequence[str]) -> Reply:
    _, command, path, content, _ = action
    if path:
        return Reply(tool="write", arguments={"filePath": path, "content": content})
    if tools and "bash" not in tools:
        return Reply(text="I was given no bash tool.")
    arguments = {"command": command, "description": "What the prompt asks for"}
    return Reply(tool="bash", arguments=arguments)


def _after_last_user(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    last = max(
        (i for i, m in enumerate(messages) if m.get("role") == "user"), default=0
    )
    return messages[last:]


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "\n".join(str(part.get("text", "")) for part in content)
    return _ENVIRONMENT.sub("", content).strip()


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0][:200]


def _filler(length: int) -> str:
    words, size = [""], 0
    while size < length:
        words.append(_WORDS[(len(words) * 7) % len(_WORDS)])
        size += len(words[-1]) + 1
    return " ".join(words)[: length + 1] if length else ""

"""Start requests and list entries as JSON: into specs and back. Pure.

An entry is kept word for word, whatever it holds; what is read out of it here only
decides whether an instance may claim the agent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final, TypeVar

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import ID_RULE, check_id
from services.registry.specs import (
    AgentSpec,
    Problem,
    Resume,
    RigRef,
    Role,
    Runtime,
    problems_of,
)

E = TypeVar("E", bound=StrEnum)

ENTRIES_MAX: Final = 1000
ENTRY_BYTES_MAX: Final = 256 * 1024
# Together with their names they stay below gRPC's 4 MiB, in and out.
ENTRIES_BYTES_MAX: Final = 3 * 1024 * 1024

# Fields of a spec whose key in JSON is not just their camelCase.
_KEYS: Final = {"display_name": "name"}
_WANTED: Final[Mapping[str, tuple[type, str]]] = {
    "agentId": (str, "a string"),
    "request": (dict, "an object"),
    "workdir": (str, "a string"),
    "env": (dict, "an object"),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a whole-list write; without a spec, `problem` says why."""

    agent: str
    text: str
    spec: AgentSpec | None
    problem: str = ""


def parse_entries(texts: Sequence[str]) -> tuple[Entry, ...]:
    """All entries, or one error that names the first bad one and its key."""
    if len(texts) > ENTRIES_MAX:
        raise _too_large(f"{len(texts)} entries: send at most {ENTRIES_MAX}")
    if sum(len(text.encode()) for text in texts) > ENTRIES_BYTES_MAX:
        raise _too_large(f"these entries: send at most {ENTRIES_BYTES_MAX} bytes")
    entries: dict[str, Entry] = {}
    for index, text in enumerate(texts):
        entry = _parse_entry(index, text)
        if entry.agent in entries:
            raise _bad(
                index, "agentId", f"name each agent once, {entry.agent} is twice"
            )
        entries[entry.agent] = entry
    return tuple(entries.values())


def _parse_entry(index: int, text: str) -> Entry:
    if len(text.encode()) > ENTRY_BYTES_MAX:
        raise _too_large(f"entry {index}: send at most {ENTRY_BYTES_MAX} bytes each")
    try:
        value = _loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad(index, "", "send it as a JSON object") from error
    if not isinstance(value, dict):
        raise _bad(index, "", "send it as a JSON object")
    for key, (wanted, shown) in _WANTED.items():
        if key not in value:
            raise _bad(index, key, "set it", Reason.FIELD_REQUIRED)
        if not isinstance(value[key], wanted):
            raise _bad(index, key, f"make it {shown}")
    if not all(isinstance(variable, str) for variable in value["env"].values()):
        raise _bad(index, "env", "make each of its values a string")
    try:
        check_id(value["agentId"], "agent")
    except ServiceError as error:
        raise _bad(index, "agentId", f"use {ID_RULE}") from error
    return _understood(value["agentId"], text, value["request"])


def _bad(
    index: int, key: str, advice: str, reason: Reason = Reason.FIELD_INVALID
) -> ServiceError:
    field = f"entries_json[{index}]" + (f".{key}" if key else "")
    return ServiceError(
        reason,
        f"cannot use {field}: {advice}; nothing was changed",
        field=field,
        index=index,
        key=key or None,
    )


def _too_large(what: str) -> ServiceError:
    return ServiceError(
        Reason.REQUEST_TOO_LARGE, f"cannot take {what}; nothing was changed"
    )


def read_entry(text: str) -> Entry:
    """An entry that was accepted before."""
    value = _loads(text)
    return _understood(value["agentId"], text, value["request"])


def _understood(agent: str, text: str, request: Mapping[str, Any]) -> Entry:
    named = request.get("agentId")
    if named is not None and named != agent:
        return Entry(agent, text, None, _no_way("request.agentId names another agent"))
    try:
        return Entry(agent, text, spec_from_request(request))
    except ServiceError as error:
        return Entry(agent, text, None, _no_way(error.message))


def _no_way(why: str) -> str:
    return f"cannot start from its entry in the list ({why})"


def _loads(text: str) -> Any:
    # No field of ours is a number, and the text is what is kept: whatever a number
    # looks like, it is left alone.
    return json.loads(
        text,
        parse_int=lambda _: 0.0,
        parse_float=lambda _: 0.0,
        parse_constant=_refuse_constant,
    )


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def spec_from_request(request: Mapping[str, Any]) -> AgentSpec:
    """The spec that a StartAgentRequest in JSON means.

    Keys that we do not know are passed over. Raises FIELD_INVALID naming all that is
    wrong.
    """
    spec, problems = _decode(request)
    found = [*problems, *_in_camel_case(problems_of(spec))]
    if found:
        wrong = "; ".join(f"request.{each.field}: {each.advice}" for each in found)
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot use the start request: {wrong}",
            field=f"request.{found[0].field}",
            fields=",".join(f"request.{each.field}" for each in found),
        )
    return spec


def request_from_spec(spec: AgentSpec) -> dict[str, Any]:
    """The spec as a StartAgentRequest in JSON; what is not set is left out."""
    request = {}
    for name, key, _ in _PLAN:
        value = getattr(spec, name)
        if not value:
            continue
        if name == "rigs":
            value = [_rig_to_json(rig) for rig in value]
        elif isinstance(value, tuple):
            value = list(value)
        elif isinstance(value, Mapping):
            value = dict(value)
        request[key] = value
    return request


def stored_spec(text: str) -> AgentSpec:
    """A spec from the form that `request_from_spec` stored, as it is."""
    return _decode(json.loads(text))[0]


def _rig_to_json(rig: RigRef) -> dict[str, str]:
    pairs = ((key, getattr(rig, name)) for name, key in _RIG_KEYS)
    return {key: value for key, value in pairs if value}


def _decode(request: Mapping[str, Any]) -> tuple[AgentSpec, list[Problem]]:
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    for name, key, convert in _PLAN:
        value = request.get(key)
        if value is None:
            continue
        try:
            values[name] = convert(value)
        except (TypeError, ValueError) as error:
            problems.append(Problem(key, str(error)))
    return AgentSpec(**values), problems


def _one_of(kind: type[E]) -> Callable[[Any], E]:
    def convert(value: Any) -> E:
        if value not in list(kind):
            known = ", ".join(word for word in kind if word)
            raise ValueError(f"use one of {known}")
        return kind(value)

    return convert


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("make it a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("use whole characters, no lone surrogates") from error
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("make it true or false")
    return value


def _variables(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise TypeError("make it an object of strings")
    return {_text(name): _text(each) for name, each in value.items()}


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("make it a list of strings")
    return tuple(_text(each) for each in value)


def _rigs(value: Any) -> tuple[RigRef, ...]:
    if not isinstance(value, list) or not all(isinstance(rig, dict) for rig in value):
        raise TypeError("make it a list of objects")
    return tuple(
        RigRef(**{name: _text(rig.get(key) or "") for name, key in _RIG_KEYS})
        for rig in value
    )


def _in_camel_case(problems: Iterator[Problem]) -> Iterator[Problem]:
    for problem in problems:
        name, dot, rest = problem.field.partition(".")
        yield Problem(_key(name) + dot + rest, problem.advice, problem.missing)


def _key(field: str) -> str:
    return _KEYS.get(field) or _camel(field)


def _camel(field: str) -> str:
    first, *others = field.split("_")
    return first + "".join(word.title() for word in others)


_CONVERSIONS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "role": _one_of(Role),
    "runtime": _one_of(Runtime),
    "resume": _one_of(Resume),
    "env_vars": _variables,
    "lightweight": _boolean,
    "rigs": _rigs,
    "command": _texts,
}
# Field, key, conversion; made once, since every record that is read needs it.
_PLAN: Final[tuple[tuple[str, str, Callable[[Any], Any]], ...]] = tuple(
    (each.name, _key(each.name), _CONVERSIONS.get(each.name, _text))
    for each in fields(AgentSpec)
)
_RIG_KEYS: Final = tuple((each.name, _camel(each.name)) for each in fields(RigRef))

"""What makes an agent's spec complete, and what may change in it. Pure.

A spec is either refused whole, with every bad field named, or stored as given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import ID_RULE, check_id
from services.registry.addresses import with_login

# Prompts dominate; a spec that fills every limit still fits gRPC's 4 MiB message
# beside the entry it came from.
PROMPT_BYTES_MAX: Final = 256 * 1024
WORD_BYTES_MAX: Final = 1024
URL_BYTES_MAX: Final = 4096
# The kernel's own limit for one argument or variable of a new process is 128 KiB.
VARIABLE_BYTES_MAX: Final = 128 * 1024
VARIABLES_BYTES_MAX: Final = 256 * 1024
VARIABLES_MAX: Final = 256
COMMAND_MAX: Final = 256
COMMAND_BYTES_MAX: Final = 128 * 1024
RIGS_MAX: Final = 100

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
# Fields of one line; the others may be long texts.
_WORDS: Final = (
    "display_name",
    "identity",
    "model",
    "small_model",
    "branch",
    "default_branch",
    "platform_integration_id",
    "start_point",
    "organization_id",
    "database",
)
_TEXTS: Final = ("prompt", "system_prompt")
# git would read a leading dash as an option.
_FOR_GIT: Final = ("git_url", "branch", "default_branch", "start_point")
_WORKSPACE: Final = ("model", "git_url", "branch")
UPDATABLE: Final = frozenset(
    {"spec", "spec.model", "spec.small_model", "spec.system_prompt", "spec.env_vars"}
)


class Role(StrEnum):
    """What an agent is for."""

    UNSPECIFIED = ""
    MAYOR = "mayor"
    POLECAT = "polecat"
    REFINERY = "refinery"
    TRIAGE = "triage"


class Runtime(StrEnum):
    """The program that is the agent; unspecified means Kilo."""

    UNSPECIFIED = ""
    KILO = "kilo"
    OPENCODE = "opencode"
    EXEC = "exec"


class Resume(StrEnum):
    """Which session a start continues; unspecified leaves it to the role."""

    UNSPECIFIED = ""
    LATEST = "latest"
    FRESH = "fresh"


@dataclass(frozen=True, slots=True)
class RigRef:
    """A rig that a mayor may look into."""

    rig_id: str = ""
    git_url: str = ""
    default_branch: str = ""
    platform_integration_id: str = ""


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """All that is needed to start an agent, from nothing, on any machine."""

    rig_id: str = ""
    role: Role = Role.UNSPECIFIED
    display_name: str = ""
    identity: str = ""
    prompt: str = ""
    model: str = ""
    small_model: str = ""
    system_prompt: str = ""
    git_url: str = ""
    branch: str = ""
    default_branch: str = ""
    env_vars: Mapping[str, str] = field(default_factory=dict)
    platform_integration_id: str = ""
    start_point: str = ""
    lightweight: bool = False
    organization_id: str = ""
    rigs: tuple[RigRef, ...] = ()
    runtime: Runtime = Runtime.UNSPECIFIED
    command: tuple[str, ...] = ()
    database: str = ""
    resume: Resume = Resume.UNSPECIFIED

    @property
    def has_database(self) -> bool:
        """Whether its runs keep a session that generations are made of."""
        return self.runtime is not Runtime.EXEC or bool(self.database)


@dataclass(frozen=True, slots=True)
class Problem:
    """One field that is wrong, and what to put there."""

    field: str
    advice: str
    missing: bool = False


def problems_of(spec: AgentSpec) -> Iterator[Problem]:
    """Everything that keeps the spec from being started."""
    yield from _missing(spec)
    yield from _rig_id("rig_id", spec.rig_id)
    for name in _WORDS:
        yield from _word(name, getattr(spec, name), WORD_BYTES_MAX)
    yield from _word("git_url", spec.git_url, URL_BYTES_MAX)
    for name in _TEXTS:
        if _size(getattr(spec, name)) > PROMPT_BYTES_MAX:
            yield Problem(name, f"use at most {PROMPT_BYTES_MAX} bytes")
    for name in _FOR_GIT:
        if getattr(spec, name).startswith("-"):
            yield Problem(name, "do not start with a dash")
    yield from _variables(spec.env_vars)
    yield from _rigs(spec.rigs)
    yield from _program(spec)


def _missing(spec: AgentSpec) -> Iterator[Problem]:
    if not spec.rig_id:
        yield Problem("rig_id", "name the rig", missing=True)
    if spec.role is Role.UNSPECIFIED:
        yield Problem("role", "give a role", missing=True)
    if spec.lightweight or spec.runtime is Runtime.EXEC:
        return
    for name in _WORKSPACE:
        if not getattr(spec, name):
            advice = "set it, or lightweight, or the exec runtime"
            yield Problem(name, advice, missing=True)


def _rig_id(name: str, given: str) -> Iterator[Problem]:
    # A mayor's rig is named after its town, whose id may have all 128 characters.
    if not given:
        return
    try:
        check_id(given.removeprefix("mayor-") or given, "rig")
    except ServiceError:
        yield Problem(name, f"use {ID_RULE}")


def _word(name: str, given: str, limit_bytes: int) -> Iterator[Problem]:
    if _size(given) > limit_bytes:
        yield Problem(name, f"use at most {limit_bytes} bytes")
    if _CONTROL.search(given):
        yield Problem(name, "use one line without control characters")


def _variables(variables: Mapping[str, str]) -> Iterator[Problem]:
    if len(variables) > VARIABLES_MAX:
        yield Problem("env_vars", f"give at most {VARIABLES_MAX} variables")
    if sum(_size(k) + _size(v) for k, v in variables.items()) > VARIABLES_BYTES_MAX:
        yield Problem("env_vars", f"use at most {VARIABLES_BYTES_MAX} bytes in all")
    for name, value in variables.items():
        shown = f"env_vars.{name[:64]}"
        if not _VARIABLE.fullmatch(name):
            yield Problem(shown, "use letters, digits and _ in names of variables")
        if "\0" in value or _size(value) > VARIABLE_BYTES_MAX:
            limit = f"at most {VARIABLE_BYTES_MAX} bytes"
            yield Problem(shown, f"use {limit} without NUL as its value")


def _rigs(rigs: tuple[RigRef, ...]) -> Iterator[Problem]:
    if len(rigs) > RIGS_MAX:
        yield Problem("rigs", f"give at most {RIGS_MAX} rigs")
        return
    for index, rig in enumerate(rigs):
        where = f"rigs[{index}]"
        if not rig.rig_id:
            yield Problem(f"{where}.rig_id", "name the rig", missing=True)
        yield from _rig_id(f"{where}.rig_id", rig.rig_id)
        for name in ("git_url", "default_branch", "platform_integration_id"):
            given = getattr(rig, name)
            yield from _word(f"{where}.{name}", given, URL_BYTES_MAX)
            if given.startswith("-"):
                yield Problem(f"{where}.{name}", "do not start with a dash")


def _program(spec: AgentSpec) -> Iterator[Problem]:
    if spec.runtime is not Runtime.EXEC:
        for name in ("command", "database"):
            if getattr(spec, name):
                yield Problem(name, "set it for the exec runtime only")
        return
    if not spec.command or not spec.command[0]:
        yield Problem("command", "give the program to run", missing=True)
    elif len(spec.command) > COMMAND_MAX:
        yield Problem("command", f"use at most {COMMAND_MAX} arguments")
    if any("\0" in part for part in spec.command):
        yield Problem("command", "use arguments without NUL")
    if sum(map(_size, spec.command)) > COMMAND_BYTES_MAX:
        yield Problem("command", f"use at most {COMMAND_BYTES_MAX} bytes in all")
    parts = spec.database.split("/")
    if ".." in parts or spec.database.startswith("/") or spec.database.endswith("/"):
        yield Problem("database", "give a path below the agent's home, without ..")


def _size(given: str) -> int:
    return len(given.encode("utf-8", "surrogatepass"))


def refuse(problems: Iterable[Problem], prefix: str = "spec.") -> None:
    """Raises one error that names every bad field; returns if there is none."""
    found = list(problems)
    if not found:
        return
    text = "; ".join(f"{prefix}{each.field}: {each.advice}" for each in found)
    fields = [f"{prefix}{each.field}" for each in found]
    missing = all(each.missing for each in found)
    raise ServiceError(
        Reason.FIELD_REQUIRED if missing else Reason.FIELD_INVALID,
        f"cannot use the spec: {text}",
        field=fields[0],
        fields=",".join(dict.fromkeys(fields)),
    )


def updated(
    old: AgentSpec, new: AgentSpec, paths: Iterable[str], *, sees_values: bool
) -> AgentSpec:
    """The old spec with what the paths of a mask name taken from the new one.

    Whoever does not see the values of variables sends them back empty, and addresses
    without their logins, and means those that are stored.
    """
    if not sees_values:
        new = _with_unseen(old, new)
    changes: dict[str, Any] = {}
    for path in paths:
        if path == "spec":
            return new
        name = path.removeprefix("spec.")
        changes[name] = getattr(new, name)
    return replace(old, **changes)


def _with_unseen(old: AgentSpec, new: AgentSpec) -> AgentSpec:
    urls = {rig.rig_id: rig.git_url for rig in old.rigs}
    return replace(
        new,
        env_vars={
            name: value or old.env_vars.get(name, "")
            for name, value in new.env_vars.items()
        },
        git_url=with_login(new.git_url, old.git_url),
        rigs=tuple(
            replace(rig, git_url=with_login(rig.git_url, urls.get(rig.rig_id, "")))
            for rig in new.rigs
        ),
    )


def check_paths(paths: Iterable[str]) -> tuple[str, ...]:
    """The paths of a mask; raises unless each may be changed."""
    given = tuple(paths)
    if not given:
        raise ServiceError(
            Reason.FIELD_REQUIRED,
            "cannot tell what to change: name it in update_mask",
            field="update_mask",
        )
    wrong = [path for path in given if path not in UPDATABLE]
    if wrong:
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot change {', '.join(wrong)}: use {', '.join(sorted(UPDATABLE))}",
            field="update_mask",
            paths=",".join(wrong),
        )
    return given

"""What an agent is, as the supervisor needs it: plain values, decisions on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Final

from services.chassis.names import AgentName
from services.supervisor.runtime import RunSpec


class Role(StrEnum):
    """What an agent is for."""

    MAYOR = "mayor"
    POLECAT = "polecat"
    REFINERY = "refinery"
    TRIAGE = "triage"


class Resume(StrEnum):
    """Which session a start continues; DEFAULT goes by role."""

    DEFAULT = ""
    LATEST = "latest"
    FRESH = "fresh"


# What a caller may not set: it would move the agent's files, load code into it, or
# speak for the supervisor. Stored entries of older containers hold such keys; they
# are kept, never used.
_RESERVED: Final = frozenset({"HOME", "TMPDIR", "KILO_DB"})
_RESERVED_PREFIXES: Final = ("XDG_", "LD_", "TOWNKEEPER_", "GASTOWN_")


def usable(variable: str, value: str) -> bool:
    """Whether an agent's process may be given this variable of its spec."""
    reserved = variable in _RESERVED or variable.startswith(_RESERVED_PREFIXES)
    sound = variable and "=" not in variable and "\0" not in variable + value
    return bool(sound) and not reserved


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """All that is needed to start an agent, already validated by the registry."""

    rig: str
    role: Role
    runtime: str = "kilo"
    display_name: str = ""
    prompt: str = ""
    model: str = ""
    small_model: str = ""
    system_prompt: str = ""
    git_url: str = ""
    branch: str = ""
    default_branch: str = ""
    start_point: str = ""
    lightweight: bool = False
    env_vars: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    database: str = ""
    resume: Resume = Resume.DEFAULT

    @property
    def continues(self) -> bool:
        """Whether a start continues the recorded session."""
        if self.resume is Resume.DEFAULT:
            return self.role is Role.MAYOR
        return self.resume is Resume.LATEST

    @property
    def digest(self) -> str:
        """Tells whether a run was started with this spec."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @property
    def run_spec(self) -> RunSpec:
        """What the runtime is told."""
        env = {k: v for k, v in self.env_vars.items() if usable(k, v)}
        return RunSpec(
            runtime=self.runtime,
            name=self.display_name,
            model=self.model,
            small_model=self.small_model,
            system_prompt=self.system_prompt,
            env_vars=env,
            command=self.command,
            database=self.database,
        )

    def git_author(self, name: AgentName) -> dict[str, str]:
        """What git is told of who commits."""
        author = self.display_name or name.agent
        email = f"{name.agent}@{name.town}.invalid"
        return {
            "GIT_AUTHOR_NAME": author,
            "GIT_AUTHOR_EMAIL": email,
            "GIT_COMMITTER_NAME": author,
            "GIT_COMMITTER_EMAIL": email,
        }


@dataclass(frozen=True, slots=True)
class Claim:
    """An agent handed to this instance, with the epoch that fences all before."""

    name: AgentName
    spec: AgentSpec
    epoch: int
    generation: int  # the last one that the registry heard of; 0: none
    taken_over: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this supervisor is: its slot outlives the container, its boot does not."""

    town: str
    slot: str
    boot_id: str

    @property
    def instance(self) -> str:
        return f"towns/{self.town}/instances/{self.slot}"

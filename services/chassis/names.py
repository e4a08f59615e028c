"""Resource names: `towns/{town}/agents/{agent}` and its siblings, parsed and formatted.

Whatever leaves this module is well formed: constructors check as strictly as `parse`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from services.chassis.errors import Reason, ServiceError

# Ids become file names and Redis keys, so neither separators nor `..` may occur.
_ID: Final = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
ID_RULE: Final = (
    "1-128 of A-Z a-z 0-9 . _ - where the first is a letter or digit and no '..' occurs"
)
GENERATION_MAX: Final = 2**63 - 1
_LATEST: Final = "latest"


def is_id(text: str) -> bool:
    """Whether the text can be an id at all."""
    return bool(_ID.fullmatch(text))


def check_id(text: str, what: str) -> str:
    """The id itself, or NAME_MALFORMED saying which id and what it must look like."""
    if isinstance(text, str) and is_id(text):
        return text
    raise ServiceError(
        Reason.NAME_MALFORMED,
        f"cannot use {_shown(text)} as {what} id: use {ID_RULE}",
        field=what,
        value=_shown(text),
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


class _Name:
    """Parsing shared by all names; FORMAT's placeholders are the fields, in order."""

    __slots__ = ()
    FORMAT: ClassVar[str]

    @classmethod
    def _fields(cls, text: str) -> list[str]:
        wanted = cls.FORMAT.split("/")
        given = text.split("/") if isinstance(text, str) else []
        if len(given) != len(wanted):
            raise cls._malformed(text)
        fields = []
        for part, shape in zip(given, wanted, strict=True):
            if shape.startswith("{"):
                fields.append(part)
            elif part != shape:
                raise cls._malformed(text)
        return fields

    @classmethod
    def _malformed(cls, text: object) -> ServiceError:
        return ServiceError(
            Reason.NAME_MALFORMED,
            f"cannot read {_shown(text)} as a name: use {cls.FORMAT}",
            format=cls.FORMAT,
            value=_shown(text),
        )


class _IdName(_Name):
    """A name whose fields are all ids."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(*cls._fields(text))

    def __post_init__(self) -> None:
        for field in self.__match_args__:  # type: ignore[attr-defined]
            check_id(getattr(self, field), field)


@dataclass(frozen=True, slots=True)
class TownName(_IdName):
    FORMAT: ClassVar = "towns/{town}"
    town: str

    def __str__(self) -> str:
        return f"towns/{self.town}"


@dataclass(frozen=True, slots=True)
class AgentName(_IdName):
    FORMAT: ClassVar = "towns/{town}/agents/{agent}"
    town: str
    agent: str

    def __str__(self) -> str:
        return f"towns/{self.town}/agents/{self.agent}"


@dataclass(frozen=True, slots=True)
class InstanceName(_IdName):
    FORMAT: ClassVar = "towns/{town}/instances/{instance}"
    town: str
    instance: str

    def __str__(self) -> str:
        return f"towns/{self.town}/instances/{self.instance}"


@dataclass(frozen=True, slots=True)
class RunName(_IdName):
    FORMAT: ClassVar = "towns/{town}/agents/{agent}/runs/{run}"
    town: str
    agent: str
    run: str

    def __str__(self) -> str:
        return f"towns/{self.town}/agents/{self.agent}/runs/{self.run}"


@dataclass(frozen=True, slots=True)
class MessageName(_IdName):
    FORMAT: ClassVar = "towns/{town}/agents/{agent}/messages/{message}"
    town: str
    agent: str
    message: str

    def __str__(self) -> str:
        return f"towns/{self.town}/agents/{self.agent}/messages/{self.message}"


@dataclass(frozen=True, slots=True)
class NudgeName(_IdName):
    FORMAT: ClassVar = "towns/{town}/agents/{agent}/nudges/{nudge}"
    town: str
    agent: str
    nudge: str

    def __str__(self) -> str:
        return f"towns/{self.town}/agents/{self.agent}/nudges/{self.nudge}"


@dataclass(frozen=True, slots=True)
class SnapshotName(_Name):
    """One generation; `generation` 0 stands for `latest`, which few callers accept."""

    FORMAT: ClassVar = "towns/{town}/agents/{agent}/snapshots/{generation}"
    town: str
    agent: str
    generation: int

    def __post_init__(self) -> None:
        check_id(self.town, "town")
        check_id(self.agent, "agent")
        if not 0 <= self.generation <= GENERATION_MAX:
            raise self._malformed(self.generation)

    @classmethod
    def parse(cls, text: str, *, latest: bool = False) -> Self:
        """Reads a name; the word `latest` counts only where the caller allows it."""
        town, agent, generation = cls._fields(text)
        if latest and generation == _LATEST:
            return cls(town, agent, 0)
        # One spelling for one number: no sign, no leading zero, no foreign digits.
        if not re.fullmatch(r"[1-9][0-9]{0,18}", generation, re.ASCII):
            raise cls._malformed(text)
        return cls(town, agent, int(generation))

    @property
    def latest(self) -> bool:
        return self.generation == 0

    def __str__(self) -> str:
        last = str(self.generation) if self.generation else _LATEST
        return f"towns/{self.town}/agents/{self.agent}/snapshots/{last}"

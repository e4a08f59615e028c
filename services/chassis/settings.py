"""Environment → frozen dataclass; every bad variable is reported at once.

Fields are made with `var`, shared groups of them with `group`; the parsers are in
`parsers.py`. No message repeats a value: it may be a secret.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from services.chassis.errors import ServiceError

T = TypeVar("T")

_META: Final = "townkeeper.variable"
_GROUP: Final = "townkeeper.group"
_WHEN: Final = "townkeeper.when"
# Left by whoever copied an example; the last two are Kubernetes' and the shell's
# own spelling of a variable that was never filled in.
_PLACEHOLDER: Final = re.compile(
    r"change[-_ ]?me|placeholder|to[-_]?do|fix[-_]?me|x{3,}|your[-_].*|<.*>|\$[({].*",
    re.IGNORECASE,
)
_ANGLES: Final = re.compile(r"<[^<>]*>")


class SettingsError(Exception):
    """The environment cannot be used; the text names every bad variable."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable: what it is for, and what a good value looks like."""

    name: str
    parse: Callable[[str], Any]
    help: str
    example: str
    required: bool
    default: Any


def var(
    name: str,
    parse: Callable[[str], T],
    *,
    default: Any = MISSING,
    help: str,
    example: str | None = None,
) -> Any:
    """A field read from the variable `name`; without a default it is required."""
    required = default is MISSING
    shown = example or str(getattr(parse, "example", ""))
    variable = Variable(name, parse, help, shown, required, default)
    return field(default=default, kw_only=True, metadata={_META: variable})


def group(
    cls: type[T], *, when: Callable[[Mapping[str, str]], bool] | None = None
) -> Any:
    """A field holding settings that several services share; with `when`, None unless
    it says of the environment that they count."""
    return field(kw_only=True, metadata={_GROUP: cls, _WHEN: when})


def load(cls: type[T], environ: Mapping[str, str]) -> T:
    """The settings, or one SettingsError that names all that is wrong.

    A class may define `problems() -> list[str]` for rules between its variables.
    """
    complaints: list[str] = []
    settings = _build(cls, environ, complaints)
    if complaints or settings is None:
        lines = "\n".join(f"  {line}" for line in dict.fromkeys(complaints))
        raise SettingsError(f"cannot start: set these variables right\n{lines}")
    return settings


def _build(cls: type[T], environ: Mapping[str, str], complaints: list[str]) -> T | None:
    values: dict[str, Any] = {}
    before = len(complaints)
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        if _GROUP in item.metadata:
            when = item.metadata[_WHEN]
            counts = when is None or when(environ)
            group_class = item.metadata[_GROUP]
            values[item.name] = (
                _build(group_class, environ, complaints) if counts else None
            )
        elif _META in item.metadata:
            try:
                values[item.name] = _read(item.metadata[_META], environ)
            except ValueError as error:
                complaints.append(str(error))
    if len(complaints) > before:
        return None
    settings = cls(**values)
    complaints.extend(getattr(settings, "problems", list)())
    return settings


def _read(variable: Variable, environ: Mapping[str, str]) -> Any:
    text = environ.get(variable.name)
    if text is None:
        if variable.required:
            raise ValueError(_complaint(variable, "is missing"))
        return variable.default
    text = text.strip()
    if not text:
        raise ValueError(_complaint(variable, "is empty"))
    if looks_like_placeholder(text):
        raise ValueError(_complaint(variable, "still holds a placeholder"))
    try:
        return variable.parse(text)
    except ServiceError as error:
        raise ValueError(_complaint(variable, error.message)) from error
    except (ValueError, OSError) as error:
        raise ValueError(_complaint(variable, str(error))) from error


def _complaint(variable: Variable, wrong: str) -> str:
    example = f", for example {variable.example}" if variable.example else ""
    return f"{variable.name} {wrong}: give {variable.help}{example}"


def looks_like_placeholder(text: str) -> bool:
    """Whether somebody forgot to fill the value in, as a whole or as a URL's host."""
    if _PLACEHOLDER.fullmatch(text) or _ANGLES.search(text):
        return True
    if "://" not in text:
        return False
    try:
        host = urlsplit(text).netloc
    except ValueError:
        return False  # its parser says what is wrong with it
    return any(_PLACEHOLDER.fullmatch(part) for part in re.split(r"[@:]", host))


def variables(cls: type[Any]) -> Iterator[Variable]:
    """Every variable that the class reads, groups included, in order."""
    for item in dataclasses.fields(cls):
        if _GROUP in item.metadata:
            yield from variables(item.metadata[_GROUP])
        elif _META in item.metadata:
            yield item.metadata[_META]

"""JSON bodies: read within a limit, taken apart with all complaints at once; pure.

Unknown fields are passed over, and null is as good as absent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from json.decoder import JSONDecodeError
from typing import Any, Final, NoReturn, TypeVar

from services.gateway.problems import BODY_TEXT, Issue, Problem

T = TypeVar("T")

MALFORMED_TEXT: Final = "Malformed JSON"
# A body can have a complaint about each of a million entries; nobody reads so many.
ISSUES_MAX: Final = 100


def parse(raw: bytes) -> Any:
    """The value of a body, or 400."""
    return parse_text(decode(raw))


def decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Problem(400, f"{MALFORMED_TEXT}: not UTF-8") from error


def parse_text(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise _malformed(error) from error


def split_list(text: str) -> list[tuple[Any, str]]:
    """The entries of a list, each with its own text, word for word; else 400."""
    try:
        return list(_entries(text))
    except (ValueError, RecursionError) as error:
        raise _malformed(error) from error


_SPACE: Final = re.compile(r"[ \t\n\r]*")


def _entries(text: str) -> Iterator[tuple[Any, str]]:
    position = _skip(text, 0)
    if text[position : position + 1] != "[":
        # Malformed or merely something else: the decoder tells which.
        parse_text(text)
        raise Problem(400, "cannot take this body: send a list of entries")
    position = _skip(text, position + 1)
    if text[position : position + 1] == "]":
        _end(text, position + 1)
        return
    while True:
        value, end = _DECODER.raw_decode(text, position)
        yield value, text[position:end]
        position = _skip(text, end)
        if text[position : position + 1] == "]":
            _end(text, position + 1)
            return
        if text[position : position + 1] != ",":
            raise JSONDecodeError("expected a comma", text, position)
        position = _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _end(text: str, position: int) -> None:
    if _skip(text, position) != len(text):
        raise JSONDecodeError("more than one value", text, position)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def _malformed(error: Exception) -> Problem:
    if isinstance(error, JSONDecodeError):
        where = f"line {error.lineno} column {error.colno}"
        return Problem(400, f"{MALFORMED_TEXT} at {where}")
    return Problem(400, MALFORMED_TEXT)


class Fields:
    """A JSON object, read field by field; `done` raises all that was wrong."""

    def __init__(
        self,
        value: Any,
        path: tuple[str | int, ...] = (),
        issues: list[Issue] | None = None,
    ) -> None:
        self.path = path
        self.issues: list[Issue] = [] if issues is None else issues
        self._value: Mapping[str, Any] = value if isinstance(value, dict) else {}
        if not isinstance(value, dict):
            self.complain("must be an object")

    def complain(self, message: str, *path: str | int) -> None:
        self.issues.append(Issue((*self.path, *path), message))

    def done(self) -> None:
        if self.issues:
            raise Problem(400, BODY_TEXT, issues=self.issues[:ISSUES_MAX])

    def text(
        self,
        name: str,
        *,
        required: bool = False,
        least: int = 0,
        most: int | None = None,
    ) -> str:
        value = self._value.get(name)
        if value is None:
            if required or least > 0:
                self.complain("is required: give a string", name)
            return ""
        if not _is_text(value):
            self.complain("must be a string", name)
            return ""
        text: str = value
        if len(text) < least:
            self.complain(f"must have at least {least} character(s)", name)
        if most is not None and len(text) > most:
            self.complain(f"must have at most {most} characters", name)
        return text

    def flag(self, name: str) -> bool:
        return self._typed(name, bool, "true or false", False)

    def word(self, name: str, words: Mapping[str, T], absent: T) -> T:
        """One word of a table, as what the table makes of it."""
        value = self._value.get(name)
        if value is None:
            return absent
        if not isinstance(value, str) or value not in words:
            self.complain(f"must be one of {', '.join(words)}", name)
            return absent
        return words[value]

    def number(self, name: str, least: int, most: int) -> int | None:
        """A whole number within bounds."""
        value = self._value.get(name)
        if value is None:
            return None
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not least <= value <= most:
            self.complain(f"must be a whole number from {least} to {most}", name)
            return None
        return int(value)

    def moment(self, name: str) -> datetime | None:
        """A time, as ISO 8601 or in milliseconds since 1970."""
        value = self._value.get(name)
        if value is None:
            return None
        moment = _moment(value)
        if moment is None:
            self.complain("must be a time: ISO 8601 or milliseconds", name)
        return moment

    def json(self, name: str) -> str:
        """Any value, as JSON."""
        value = self._value.get(name)
        try:
            text = json.dumps(value, allow_nan=False, ensure_ascii=False)
            text.encode()
        except (ValueError, RecursionError):
            self.complain("must be JSON of whole characters and finite numbers", name)
            return ""
        return text

    def texts(self, name: str) -> list[str]:
        values = self._typed(name, list, "a list of strings", [])
        for index, value in enumerate(values):
            if not _is_text(value):
                self.complain("must be a string", name, index)
        return [value for value in values if _is_text(value)]

    def text_map(self, name: str, *, required: bool = False) -> dict[str, str]:
        wanted = "an object of strings"
        values = self._typed(name, dict, wanted, {}, required)
        for key, value in values.items():
            if not (_is_text(key) and _is_text(value)):
                self.complain("must be a string", name, key)
        return {k: v for k, v in values.items() if _is_text(k) and _is_text(v)}

    def object(self, name: str) -> Fields:
        """A required object within this one."""
        return Fields(self._value.get(name), (*self.path, name), self.issues)

    def objects(self, name: str) -> list[Fields]:
        values = self._typed(name, list, "a list of objects", [])
        return [
            Fields(value, (*self.path, name, index), self.issues)
            for index, value in enumerate(values)
        ]

    def _typed(
        self, name: str, kind: type[T], wanted: str, absent: T, required: bool = False
    ) -> T:
        value = self._value.get(name)
        if value is None:
            if required:
                self.complain(f"is required: give {wanted}", name)
            return absent
        if isinstance(value, kind):
            return value
        self.complain(f"must be {wanted}", name)
        return absent


def _moment(value: object) -> datetime | None:
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


def _is_text(value: object) -> bool:
    # JSON can spell halves of characters, which no other part of us can hold.
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True

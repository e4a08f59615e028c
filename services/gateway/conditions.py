"""Preconditions and ranges of HTTP, judged against a generation and a size; pure.

The entity tag of a snapshot is its generation in quotes: numbers are never reused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.gateway.problems import Problem

_TAG: Final = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_TAGS: Final = re.compile(rf"{_TAG.pattern}(?:[ \t]*,[ \t]*{_TAG.pattern})*")
_GENERATION: Final = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_RANGE: Final = re.compile(r"bytes[ \t]*=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*")


def etag(generation: int) -> str:
    return f'"{generation}"'


@dataclass(frozen=True, slots=True)
class Tags:
    """The value of a conditional header; tags that are not ours match nothing."""

    any: bool
    strong: frozenset[int] = frozenset()
    weak: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, header: str, name: str) -> Tags:
        text = header.strip()
        if text == "*":
            return cls(any=True)
        if not _TAGS.fullmatch(text):
            raise Problem(400, f'cannot read {name}: send "<generation>" or *')
        strong: set[int] = set()
        weak: set[int] = set()
        for weakness, tag in _TAG.findall(text):
            if _GENERATION.fullmatch(tag):
                (weak if weakness else strong).add(int(tag))
        return cls(False, frozenset(strong), frozenset(weak))

    def match(self, generation: int, *, weakly: bool) -> bool:
        """Whether a generation is meant; 0 is none at all."""
        if generation == 0:
            return False
        if self.any or generation in self.strong:
            return True
        return weakly and generation in self.weak


@dataclass(frozen=True, slots=True)
class Conditions:
    """`If-Match` and `If-None-Match` of one request."""

    if_match: Tags | None = None
    if_none_match: Tags | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Conditions:
        def read(name: str) -> Tags | None:
            return Tags.parse(headers[name], name) if name in headers else None

        return cls(read("if-match"), read("if-none-match"))

    def __bool__(self) -> bool:
        return self.if_match is not None or self.if_none_match is not None

    def check_write(self, generation: int) -> None:
        """Raises 412 unless a write may replace this head; 0: there is none."""
        if self.if_match and not self.if_match.match(generation, weakly=False):
            raise _failed(generation)
        if self.if_none_match and self.if_none_match.match(generation, weakly=True):
            raise _failed(generation)

    def unchanged(self, generation: int) -> bool:
        """Whether a read is answered 304. Raises 412 where `If-Match` does not hold."""
        if self.if_match and not self.if_match.match(generation, weakly=False):
            raise _failed(generation)
        return bool(
            self.if_none_match and self.if_none_match.match(generation, weakly=True)
        )

    @property
    def expected(self) -> int | None:
        """The head that a write needs where the headers alone tell; 0: no head.

        None: the head has to be looked at first.
        """
        if self.if_match is None:
            one = self.if_none_match
            return 0 if one is not None and one.any else None
        only = self.if_match.strong
        if self.if_none_match is None and not self.if_match.any and len(only) == 1:
            return next(iter(only))
        return None


def _failed(generation: int) -> Problem:
    return Problem(
        412,
        f"cannot go on: the snapshot is at generation {generation}; read it again"
        if generation
        else "cannot go on: there is no snapshot; leave If-Match out",
        reason="GENERATION_MISMATCH",
        fields={"generation": generation},
        headers={"etag": etag(generation)} if generation else None,
    )


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Part of a file: `size_bytes` from `offset`, of `total_bytes`."""

    offset: int
    size_bytes: int
    total_bytes: int

    @property
    def content_range(self) -> str:
        last = self.offset + self.size_bytes - 1
        return f"bytes {self.offset}-{last}/{self.total_bytes}"


def parse_range(header: str | None, total_bytes: int) -> ByteRange | None:
    """The part asked for; None for all of it.

    As RFC 9110 wants it, what is malformed or several ranges count as not asked for.
    Raises 416 for a range without a byte in it.
    """
    found = _RANGE.fullmatch(header) if header else None
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        size = min(int(found[2]), total_bytes)
        first, last = total_bytes - size, total_bytes - 1
    else:
        first = int(found[1])
        last = min(int(found[2]), total_bytes - 1) if found[2] else total_bytes - 1
        if found[2] and int(found[2]) < first:
            return None
    if first > last:
        raise Problem(
            416,
            f"cannot send that range: the snapshot has {total_bytes} bytes",
            headers={"content-range": f"bytes */{total_bytes}"},
        )
    return ByteRange(first, last - first + 1, total_bytes)

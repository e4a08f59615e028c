"""What commands print: aligned text for people, JSON for programs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import typer
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

_WIDE = frozenset(
    {
        FieldDescriptor.TYPE_INT64,
        FieldDescriptor.TYPE_UINT64,
        FieldDescriptor.TYPE_FIXED64,
        FieldDescriptor.TYPE_SFIXED64,
        FieldDescriptor.TYPE_SINT64,
    }
)


@dataclass(frozen=True, slots=True)
class Output:
    """Standard output, in one of two forms."""

    as_json: bool

    def table(self, titles: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Columns as wide as they need to be; nothing but the titles if empty."""
        cells = [list(titles), *([str(cell) for cell in row] for row in rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(titles))]
        for row in cells:
            padded = (
                cell.ljust(width) for cell, width in zip(row, widths, strict=True)
            )
            typer.echo("  ".join(padded).rstrip())

    def facts(self, **facts: object) -> None:
        """One fact to a line; those that are empty are left out."""
        shown = {
            key.replace("_", " "): value
            for key, value in facts.items()
            if value not in ("", None, (), [], {})
        }
        width = max(map(len, shown), default=0)
        for key, value in shown.items():
            typer.echo(f"{key.ljust(width)}  {value}")

    @contextlib.contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Shows on a terminal that something long is under way."""
        console = Console(stderr=True)
        with console.status(text) if console.is_terminal else contextlib.nullcontext():
            yield

    def line(self, text: str) -> None:
        typer.echo(text)

    def json(self, content: object) -> None:
        """One document, readable."""
        typer.echo(json.dumps(content, indent=2, ensure_ascii=False))

    def json_line(self, content: object) -> None:
        """One document of many, on a line of its own."""
        typer.echo(json.dumps(content, ensure_ascii=False))


def plain(message: Message) -> dict[str, Any]:
    """A message as protobuf's JSON, empty fields included; 64-bit numbers as numbers.

    Protobuf writes those as text, which is of no use to `jq` and none of ours is large.
    """
    content: dict[str, Any] = MessageToDict(
        message, always_print_fields_with_no_presence=True
    )
    _numbers(content, message)
    return content


def _numbers(content: dict[str, Any], message: Message) -> None:
    for field in message.DESCRIPTOR.fields:
        key = field.json_name
        if key not in content:
            continue
        if field.type in _WIDE:
            content[key] = (
                [int(one) for one in content[key]]
                if field.is_repeated
                else int(content[key])
            )
        elif field.type == FieldDescriptor.TYPE_MESSAGE and _is_ours(field):
            value = getattr(message, field.name)
            if field.is_repeated:
                for inner, one in zip(content[key], value, strict=True):
                    _numbers(inner, one)
            else:
                _numbers(content[key], value)


def _is_ours(field: Any) -> bool:
    inner = field.message_type
    ours: bool = inner.full_name.startswith("townkeeper.")
    return ours and not inner.GetOptions().map_entry


def moment(timestamp: Timestamp) -> str:
    """A time, to the second, in UTC; empty when there is none."""
    if not timestamp.seconds:
        return ""
    return f"{datetime.fromtimestamp(timestamp.seconds, UTC):%Y-%m-%d %H:%M:%SZ}"


def size(size_bytes: int) -> str:
    """A size that people can read."""
    amount = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("the last unit takes everything")


def word(enum: Any, number: int) -> str:
    """The name of an enum's value without its prefix, in small letters."""
    try:
        name: str = enum.Name(number)
    except ValueError:
        return f"unknown ({number})"
    return name.split("_", 1)[1].lower().replace("_", " ")

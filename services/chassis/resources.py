"""Which resources a request is about: the names it carries, found by field name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

# These always hold a resource name.
_NAMES: Final = frozenset({"name", "parent"})
# These hold one, or a bare id that says nothing about the town.
_MAYBE_NAMES: Final = frozenset(
    {"agent", "agents", "instance", "instances", "names", "runs", "source", "target"}
)
# Messages that carry the name for the request around them.
_CARRIERS: Final = frozenset({"header", "agent", "instance", "snapshot"})
_PREFIX: Final = "towns/"


def resource_names(request: Any) -> Iterator[str]:
    """Every resource name in the request; all of them must be the caller's to reach."""
    if not isinstance(request, Message):
        return
    for field, repeated, carries in _fields(request.DESCRIPTOR):
        if carries:
            if request.HasField(field):
                yield from resource_names(getattr(request, field))
            continue
        value = getattr(request, field)
        for name in value if repeated else (value,):
            if name and (field in _NAMES or name.startswith(_PREFIX)):
                yield name


@lru_cache(maxsize=1024)
def _fields(descriptor: Descriptor) -> tuple[tuple[str, bool, bool], ...]:
    found = []
    for field in descriptor.fields:
        text = field.type == FieldDescriptor.TYPE_STRING
        message = field.type == FieldDescriptor.TYPE_MESSAGE
        if text and field.name in _NAMES | _MAYBE_NAMES:
            found.append((field.name, field.is_repeated, False))
        elif message and field.name in _CARRIERS and not field.is_repeated:
            found.append((field.name, False, True))
    return tuple(found)

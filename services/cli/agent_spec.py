"""What an agent is started with, from a JSON file and from options over it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import ParseDict, ParseError

from services.cli.problems import Exit, Problem
from townkeeper.registry.v1.resources_pb2 import AgentSpec, Resume, Role, Runtime

_ENUMS: Final[Mapping[str, Any]] = {"role": Role, "runtime": Runtime, "resume": Resume}


def read_file(path: Path) -> dict[str, Any]:
    """The fields of a spec, as an object in a JSON file."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise Problem(
            f"cannot read {path}: {error.strerror}; name a file with a spec", Exit.USAGE
        ) from error
    except ValueError as error:
        raise Problem(
            f"cannot read {path}: it is not JSON ({error}); correct it", Exit.USAGE
        ) from error
    if not isinstance(content, dict):
        raise Problem(
            f"cannot use {path}: its content is not an object; see `AgentSpec` in "
            "registry/v1/resources.proto",
            Exit.USAGE,
        )
    return content


def build(
    town: str, content: Mapping[str, Any], options: Mapping[str, Any]
) -> AgentSpec | None:
    """The spec, options winning over the file; None when neither says anything."""
    fields = dict(content) | {key: value for key, value in options.items() if value}
    if not fields:
        return None
    for key, enum in _ENUMS.items():
        if isinstance(fields.get(key), str):
            fields[key] = _enum_name(enum, key, fields[key])
    try:
        spec = ParseDict(fields, AgentSpec())
    except ParseError as error:
        raise Problem(
            f"cannot use this spec: {error}; correct it", Exit.USAGE
        ) from error
    if spec.role == Role.ROLE_MAYOR and not spec.rig_id:
        spec.rig_id = f"mayor-{town}"
    return spec


def variables(given: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` options as a mapping."""
    found = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not name or not equals:
            raise Problem(f"cannot use --env {one!r}: write NAME=VALUE", Exit.USAGE)
        found[name] = value
    return found


def _enum_name(enum: Any, key: str, given: str) -> str:
    """`mayor` and `ROLE_MAYOR` mean the same."""
    prefix = enum.keys()[0].removesuffix("UNSPECIFIED")
    name = given.upper()
    full = name if name.startswith(prefix) else prefix + name
    if full not in enum.keys()[1:]:
        words = ", ".join(one.removeprefix(prefix).lower() for one in enum.keys()[1:])
        raise Problem(f"cannot use {key} {given!r}: use one of {words}", Exit.USAGE)
    return full

"""Keeps an agent's secrets out of what is said about it: what a program or git printed
stands in errors, and those reach people, logs and records."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

from services.chassis.errors import ServiceError
from services.chassis.telemetry import REDACTED
from services.supervisor.specs import AgentSpec

T = TypeVar("T")

# Shorter values are words like `true`, and stand in every text.
SECRET_CHARACTERS_MIN: Final = 6


async def hiding_secrets(step: Awaitable[T], spec: AgentSpec) -> T:
    """Runs a step of a start; its refusal names no secret of the spec."""
    try:
        return await step
    except ServiceError as error:
        text = without_secrets(error.message, spec)
        if text == error.message:
            raise
        told = {k: without_secrets(v, spec) for k, v in error.metadata.items()}
        raise ServiceError(error.reason, text, **told) from None


def without_secrets(text: str, spec: AgentSpec) -> str:
    """The text with each secret of the spec cut out of it, the longest first."""
    for secret in sorted(set(_secrets(spec)), key=len, reverse=True):
        text = text.replace(secret, REDACTED)
    return text


def _secrets(spec: AgentSpec) -> Iterator[str]:
    values = [*spec.env_vars.values(), *_password(spec.git_url)]
    for value in values:
        # A program may print one line of a key.
        for line in (value, *value.splitlines()):
            if len(line) >= SECRET_CHARACTERS_MIN:
                yield line


def _password(url: str) -> Iterator[str]:
    try:
        parts = urlsplit(url)
        # Over HTTP a name alone is a token.
        name = parts.username if parts.scheme in ("http", "https") else None
        found = parts.password or name
    except ValueError:
        return
    if found:
        yield found
        yield unquote(found)

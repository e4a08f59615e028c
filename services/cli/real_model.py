"""The model that somebody pays for, where one is to play in the demo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.cli.problems import Exit, Problem

# OpenAI's own form of API, as these providers speak it.
_BASE_URLS: Final = {
    "anthropic": "https://api.anthropic.com/v1",
    "deepseek": "https://api.deepseek.com/v1",
    "groq": "https://api.groq.com/openai/v1",
    "mistral": "https://api.mistral.ai/v1",
    "openai": "https://api.openai.com/v1",
    "openrouter": "https://openrouter.ai/api/v1",
}
_KEY: Final = "TOWNKEEPER_MODEL_KEY"


@dataclass(frozen=True, slots=True)
class RealModel:
    """A model that somebody pays for."""

    name: str  # provider/model
    base_url: str
    key: str


def real_model(
    name: str | None, base_url: str | None, environ: Mapping[str, str]
) -> RealModel | None:
    """The model that is meant, with its address and key; None means the stand-in."""
    if name is None:
        if base_url is not None:
            raise _usage("cannot use --base-url alone: give --model too")
        return None
    provider, slash, rest = name.partition("/")
    if not (provider and slash and rest):
        raise _usage(f"cannot use --model {name!r}: write provider/model")
    address = base_url or _BASE_URLS.get(provider)
    if address is None:
        raise _usage(f"cannot tell where {provider} answers: give --base-url")
    own_key = f"{provider.upper().replace('-', '_')}_API_KEY"
    key = environ.get(_KEY) or environ.get(own_key)
    if not key:
        raise _usage(f"cannot use {name} without a key: set {own_key} or {_KEY}")
    return RealModel(name, address, key)


def _usage(message: str) -> Problem:
    return Problem(message, Exit.USAGE)

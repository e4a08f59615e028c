"""Tokens that the registry signs: those of an agent's runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import jwt

from services.chassis.clock import Clock, SystemClock
from services.chassis.errors import Reason, ServiceError
from services.chassis.key_files import KeysError
from services.chassis.keys import UNNOTED_TTL_S, KeyRing

# No longer: nobody notes for how long our keys are needed.
LIFE_MAX_S: Final = UNNOTED_TTL_S
LIFE_MIN_S: Final = 60.0
LIFE_DEFAULT_S: Final = LIFE_MAX_S


class Issuer:
    """Signs with the keys of a folder, read each time: they may have been rotated."""

    def __init__(self, folder: Path | None, clock: Clock | None = None) -> None:
        self._folder = folder
        self._clock = clock or SystemClock()

    async def issue(self, mint: Callable[[KeyRing], str]) -> tuple[str, datetime]:
        """A token and when it expires. Raises SIGNING_DISABLED, KEYS_UNAVAILABLE."""
        if self._folder is None:
            raise ServiceError(
                Reason.SIGNING_DISABLED,
                "cannot issue tokens, this registry has no key to sign with: its "
                "operator can give it one in TOWNKEEPER_SIGNING_KEYS_DIR",
            )
        return await asyncio.to_thread(self._issue, self._folder, mint)

    def _issue(
        self, folder: Path, mint: Callable[[KeyRing], str]
    ) -> tuple[str, datetime]:
        try:
            token = mint(KeyRing.load(folder, self._clock))
        except (KeysError, OSError) as error:
            raise ServiceError(
                Reason.KEYS_UNAVAILABLE,
                "cannot sign tokens, the keys cannot be read now: try again",
            ) from error
        said = jwt.decode(token, options={"verify_signature": False})
        return token, datetime.fromtimestamp(said["exp"], UTC)


def check_life(given_s: float) -> float:
    """How long the token is to live, if that is allowed."""
    if not LIFE_MIN_S <= given_s <= LIFE_MAX_S:
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot issue a token for {given_s:g} s: give {LIFE_MIN_S:g} to "
            f"{LIFE_MAX_S:g} s",
            field="ttl",
        )
    return given_s

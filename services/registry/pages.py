"""Page tokens, and what makes any token of ours opaque.

A token is good only for the list that it was made for. The checksum keeps honest
mistakes out, such as a token of another list; what a token can reach is decided by the
caller's credential.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from services.chassis.errors import Reason, ServiceError

PAGE_DEFAULT: Final = 50
PAGE_MAX: Final = 500
_CHECK_BYTES: Final = 8


def page_size(given: int) -> int:
    """How many to list; 0 means the default, more than the most means the most."""
    if given < 0:
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot list {given} of them: set page_size from 0 to {PAGE_MAX}",
            field="page_size",
        )
    return min(given or PAGE_DEFAULT, PAGE_MAX)


def page_token(scope: str, after: str) -> str:
    """The token that continues a list behind `after`; empty stays empty."""
    return sealed(scope, after) if after else ""


def page_start(scope: str, token: str) -> str:
    """Where the list goes on; raises unless the token was made for this scope."""
    after = unsealed(scope, token) if token else ""
    if after is None:
        raise ServiceError(
            Reason.FIELD_INVALID,
            "cannot use this page token, it is not of this list: begin without one",
            field="page_token",
        )
    return after


def sealed(scope: str, text: str) -> str:
    """The text as a token."""
    raw = _check(scope, text.encode()) + text.encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unsealed(scope: str, token: str) -> str | None:
    """The text that was sealed for this scope; None if it was not."""
    try:
        padded = token + "=" * (-len(token) % 4)
        raw = base64.b64decode(padded.encode("ascii"), b"-_", validate=True)
        check, text = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:]
        return text.decode() if text and check == _check(scope, text) else None
    except (binascii.Error, UnicodeError):
        return None


def _check(scope: str, text: bytes) -> bytes:
    key = scope.encode()
    digest = hashlib.blake2b(digest_size=_CHECK_BYTES)
    digest.update(len(key).to_bytes(4, "big") + key + text)
    return digest.digest()

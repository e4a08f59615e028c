"""Page tokens: opaque, and good only for the list that they were made for.

The checksum keeps honest mistakes out, such as a token of another list; what a token
can reach is decided by the caller's credential.
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
    if not after:
        return ""
    raw = _check(scope, after.encode()) + after.encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def page_start(scope: str, token: str) -> str:
    """Where the list goes on; raises unless the token was made for this scope."""
    if not token:
        return ""
    try:
        padded = token + "=" * (-len(token) % 4)
        raw = base64.b64decode(padded.encode("ascii"), b"-_", validate=True)
        check, after = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:]
        if after and check == _check(scope, after):
            return after.decode()
    except (binascii.Error, UnicodeError):
        pass
    raise ServiceError(
        Reason.FIELD_INVALID,
        "cannot use this page token, it is not of this list: begin without one",
        field="page_token",
    )


def _check(scope: str, after: bytes) -> bytes:
    key = scope.encode()
    digest = hashlib.blake2b(digest_size=_CHECK_BYTES)
    digest.update(len(key).to_bytes(4, "big") + key + after)
    return digest.digest()

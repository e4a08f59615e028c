"""Failures for fakes that call a hook before or after what they do."""

from __future__ import annotations

from collections.abc import Callable

from services.chassis.errors import Reason, ServiceError


def failing_once(
    wanted: str, reason: Reason = Reason.STORE_UNAVAILABLE
) -> Callable[..., None]:
    """A hook that fails the first call of this method, and no other."""
    left = [wanted]

    def hook(method: str, *_: object) -> None:
        if method in left:
            left.remove(method)
            raise ServiceError(reason, f"cannot {method}: told to fail")

    return hook


def failing(
    *wanted: str, reason: Reason = Reason.STORE_UNAVAILABLE
) -> Callable[..., None]:
    """A hook that fails every call of these methods."""

    def hook(method: str, *_: object) -> None:
        if method in wanted:
            raise ServiceError(reason, f"cannot {method}: told to fail")

    return hook

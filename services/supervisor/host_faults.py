"""The host's own faults, a full disk or no descriptors left, as errors that pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from services.chassis.errors import Reason, ServiceError
from services.segments.disk import refusing_full_disk


@contextmanager
def refusing_host_faults(what: str) -> Iterator[None]:
    """Whoever tries again after a ServiceError must live through these as well."""
    try:
        with refusing_full_disk(what):
            yield
    except OSError as error:
        raise ServiceError(
            Reason.INTERNAL,
            f"cannot write {what}: {error}; look at this container's disk and limits",
        ) from error

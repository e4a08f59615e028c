"""The mark that says whose a blob store is and how its blobs are laid out. Pure."""

from __future__ import annotations

import json
import uuid
from typing import Final

from services.chassis.errors import Reason, ServiceError

LAYOUT: Final = 1
MARK: Final = "townkeeper-store.json"


def new_mark(environment: str) -> bytes:
    """For a store that has none; its id is new."""
    mark = {"environment": environment, "layout": LAYOUT, "id": str(uuid.uuid4())}
    return json.dumps(mark).encode()


def store_id(where: object, text: str | bytes, environment: str) -> str:
    """The id in the mark. Raises STORE_FOREIGN if the store is not ours to use."""
    try:
        mark = json.loads(text)
        found, layout = str(mark["environment"]), int(mark["layout"])
        name = str(mark["id"])
    except (ValueError, KeyError, TypeError):
        raise foreign(where, f"its {MARK} cannot be read; restore it") from None
    if layout > LAYOUT:
        raise foreign(
            where,
            f"its layout is version {layout} and this program knows version {LAYOUT}; "
            "upgrade Townkeeper",
            layout=layout,
        )
    if found != environment:
        raise foreign(
            where,
            f"it belongs to environment {found!r}, not {environment!r}; set "
            "TOWNKEEPER_BLOB_URL or TOWNKEEPER_ENVIRONMENT right",
            environment=found,
        )
    return name


def strangers(where: object, name: str, what: str) -> ServiceError:
    """A place that holds other things and no mark is not for us."""
    return foreign(where, f"it holds {name!r} and no {MARK}; give an empty {what}")


def foreign(where: object, why: str, **metadata: object) -> ServiceError:
    return ServiceError(
        Reason.STORE_FOREIGN,
        f"cannot use the blob store {where}: {why}",
        path=where,
        **metadata,
    )

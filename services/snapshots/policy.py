"""Who may call what. A method without a row is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.chassis.auth import Caller, Kind, Rule, rule
from services.chassis.errors import Reason, ServiceError

_SERVICE: Final = "/townkeeper.snapshots.v1.SnapshotService/"
_WRITERS: Final = rule(Kind.CONTAINER)
_READERS: Final = rule(Kind.CONTAINER, Kind.USER, Kind.OPERATOR, Kind.AGENT)

POLICY: Final[Mapping[str, Rule]] = {
    _SERVICE + "AdvanceEpoch": _WRITERS,
    # A first frame that names nothing is no header, and is refused as such.
    _SERVICE + "UploadSnapshot": rule(Kind.CONTAINER, Kind.OPERATOR, townless=True),
    _SERVICE + "GetUpload": _WRITERS,
    _SERVICE + "AbortUpload": _WRITERS,
    _SERVICE + "DownloadSnapshot": rule(Kind.CONTAINER, Kind.OPERATOR, Kind.AGENT),
    _SERVICE + "GetSnapshot": _READERS,
    _SERVICE + "ListSnapshots": _READERS,
    _SERVICE + "UpdateSnapshot": rule(Kind.CONTAINER, Kind.OPERATOR),
    _SERVICE + "DeleteSnapshot": rule(Kind.CONTAINER, Kind.OPERATOR),
    _SERVICE + "UndeleteSnapshot": rule(Kind.OPERATOR),
    _SERVICE + "ForkSnapshot": rule(Kind.OPERATOR),
    _SERVICE + "ReindexTown": rule(Kind.OPERATOR),
    _SERVICE + "VerifySnapshot": rule(Kind.CONTAINER, Kind.OPERATOR),
}


def check_holder(caller: Caller) -> None:
    """A hold outlives every container, and costs room until it is released."""
    if caller.kind is not Kind.OPERATOR:
        raise ServiceError(
            Reason.ROLE_INSUFFICIENT,
            f"cannot hold or release a snapshot with a {caller.kind} token: use an "
            "operator's",
        )

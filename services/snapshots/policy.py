"""Who may call what. A method without a row is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.chassis.auth import Kind, Rule, rule

_SERVICE: Final = "/townkeeper.snapshots.v1.SnapshotService/"
_WRITERS: Final = rule(Kind.CONTAINER)
_READERS: Final = rule(Kind.CONTAINER, Kind.USER, Kind.OPERATOR, Kind.AGENT)

POLICY: Final[Mapping[str, Rule]] = {
    _SERVICE + "AdvanceEpoch": _WRITERS,
    # A first frame that names nothing is no header, and is refused as such.
    _SERVICE + "UploadSnapshot": rule(Kind.CONTAINER, townless=True),
    _SERVICE + "GetUpload": _WRITERS,
    _SERVICE + "AbortUpload": _WRITERS,
    _SERVICE + "DownloadSnapshot": rule(Kind.CONTAINER, Kind.OPERATOR, Kind.AGENT),
    _SERVICE + "GetSnapshot": _READERS,
    _SERVICE + "ListSnapshots": _READERS,
    _SERVICE + "DeleteSnapshot": rule(Kind.CONTAINER, Kind.OPERATOR),
    _SERVICE + "UndeleteSnapshot": rule(Kind.OPERATOR),
    _SERVICE + "ForkSnapshot": rule(Kind.OPERATOR),
    _SERVICE + "VerifySnapshot": rule(Kind.CONTAINER, Kind.OPERATOR),
}

"""What lies where in a data directory, and which `up` may use it.

`D/plane` outlives a container: Valkey, blobs, keys, logs. `D/container` dies with it.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from services.cli.problems import Problem

DEFAULT: Final = Path(".townkeeper")
# Raised when a newer layout cannot be read by an older townkeeper.
LAYOUT_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Marking:
    """Whose directory it is: the content of `D/plane/version`."""

    town: str
    environment: str
    layout: int = LAYOUT_VERSION


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a running plane answers: the content of `D/plane/endpoints.json`."""

    town: str
    http: str
    registry: str
    snapshots: str
    supervisor: str


@dataclass(frozen=True, slots=True)
class DataDir:
    """Paths below one data directory; makes nothing by itself."""

    root: Path

    @classmethod
    def at(cls, given: Path) -> DataDir:
        return cls(Path(os.path.abspath(given.expanduser())))

    @property
    def plane(self) -> Path:
        return self.root / "plane"

    @property
    def container(self) -> Path:
        return self.root / "container"

    @property
    def keys(self) -> Path:
        return self.plane / "keys"

    @property
    def service_token(self) -> Path:
        """The token by which services learn what was revoked."""
        return self.plane / "service.token"

    @property
    def blobs(self) -> Path:
        return self.plane / "blobs"

    @property
    def valkey(self) -> Path:
        return self.plane / "valkey"

    @property
    def logs(self) -> Path:
        return self.plane / "log"

    @property
    def lock(self) -> Path:
        return self.plane / "up.lock"

    @property
    def children(self) -> Path:
        return self.plane / "children.json"

    @property
    def _version(self) -> Path:
        return self.plane / "version"

    @property
    def _endpoints(self) -> Path:
        return self.plane / "endpoints.json"

    def check_usable(self) -> None:
        """Refuses a place where nothing can be written, before anything is."""
        existing = self.root
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        wrong = ""
        if not existing.is_dir():
            wrong = f"{existing} is not a directory"
        elif not os.access(existing, os.W_OK | os.X_OK):
            wrong = f"{existing} is not writable"
        if wrong:
            raise Problem(
                f"cannot use {self.root} as data directory, {wrong}: "
                "choose another --data-dir"
            )

    def check_marking(self, wanted: Marking) -> None:
        """Refuses a directory that another version, environment or town made."""
        found = self.marking()
        if found is None or found == wanted:
            return
        ours, theirs = asdict(wanted), asdict(found)
        what = next(key for key in ours if ours[key] != theirs[key])
        raise Problem(
            f"cannot use {self.root}: it was made for {what} {theirs[what]!r}, not "
            f"{ours[what]!r}; choose another --data-dir"
        )

    def marking(self) -> Marking | None:
        """Whose directory it is; None when nobody used it yet."""
        if not self._version.exists():
            return None
        entry = _read_json(self._version)
        layout = entry.get("layout")
        if layout != LAYOUT_VERSION:
            raise Problem(
                f"cannot use {self.root}: {self._version} names layout {layout!r}, "
                f"this townkeeper knows {LAYOUT_VERSION}; use the version that made it "
                "or another --data-dir"
            )
        return Marking(str(entry.get("town")), str(entry.get("environment")), layout)

    def create(self, marking: Marking) -> None:
        """Makes what is missing, for the owner only."""
        folders = (self.container, self.keys, self.blobs, self.valkey, self.logs)
        for folder in (self.root, self.plane, *folders):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._version.exists():
            write_json(self._version, asdict(marking))

    def publish(self, endpoints: Endpoints) -> None:
        """Tells the other commands where the plane answers."""
        write_json(self._endpoints, asdict(endpoints))

    def withdraw(self) -> None:
        """The plane answers no more."""
        self._endpoints.unlink(missing_ok=True)

    def endpoints(self) -> Endpoints | None:
        """Where the plane answers; None when none runs here."""
        try:
            return Endpoints(**_read_json(self._endpoints))
        except FileNotFoundError:
            return None
        except TypeError as error:
            raise Problem(
                f"cannot read {self._endpoints}: start `townkeeper up` again"
            ) from error


def _read_json(path: Path) -> dict[str, Any]:
    """An object from a file; anything else in it is a Problem."""
    try:
        entry = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise Problem(
            f"cannot read {path}: it is no file of this townkeeper; "
            "choose another --data-dir"
        ) from error
    return entry if isinstance(entry, dict) else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replaces a file in one step, readable by its owner only."""
    write_private(path, json.dumps(content, indent=1) + "\n")


def write_private(path: Path, content: str) -> None:
    """The same for any text."""
    # Two services that start at once may each write the same file.
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)

"""A real S3 on loopback: SeaweedFS, which may be killed and started again.

with S3Process(tmp_path) as s3:
    environ = s3.environ
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Final

from obstore.exceptions import BaseError
from obstore.store import S3Store

from tests.support.ports import free_ports
from tests.support.waiting import wait_until_sync

BUCKET: Final = "tests"
_KEY: Final = "townkeeper"
_SECRET: Final = "a-secret-of-the-tests"
# May use a bucket, and make none.
_GUEST: Final = "guest"
# Written when it serves, and read when it is started again.
_MARK: Final = "serves"
_PORTS: Final = ("master.port", "volume.port", "filer.port", "s3.port")


class S3Process:
    """One server; its data outlives `kill`, and its port stays the same."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "seaweedfs"
        self.folder.mkdir(parents=True)
        identities = [
            _identity(_KEY, ["Admin", "Read", "Write", "List", "Tagging"]),
            _identity(_GUEST, ["Read", "Write", "List", "Tagging"]),
        ]
        (self.folder / "s3.json").write_text(json.dumps({"identities": identities}))
        self._ports = free_ports(len(_PORTS))
        self._process: subprocess.Popen[bytes] | None = None
        self._marked = False

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports[-1]}"

    @property
    def environ(self) -> dict[str, str]:
        """What a client of it is told."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
        }

    @property
    def guest_environ(self) -> dict[str, str]:
        return {**self.environ, "AWS_ACCESS_KEY_ID": _GUEST}

    def new_url(self) -> str:
        """A prefix where nothing is: cheaper than a new server for each test."""
        return f"s3://{BUCKET}/{uuid.uuid4()}"

    def __enter__(self) -> S3Process:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Starts it, or starts it again on the data it had; returns when it serves."""
        pairs = zip(_PORTS, self._ports, strict=True)
        ports = [f"-{name}={port}" for name, port in pairs]
        environ = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(Path(sys.executable).with_name("weed")),
                    "mini",
                    f"-dir={self.folder}",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    "-master.telemetry=false",
                    "-admin.ui=false",
                    "-webdav=false",
                    "-s3.port.iceberg=0",
                    f"-s3.config={self.folder / 's3.json'}",
                    f"-bucket={BUCKET}",
                    *ports,
                ],
                cwd=self.folder,
                env=environ | {"TMPDIR": str(self.folder)},
                stdout=log,
                stderr=log,
            )
        log_path = self.folder / "log"
        wait_until_sync(self._serves, what=f"S3 serves, see {log_path}", limit_s=60.0)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def _serves(self) -> bool:
        """Whether what is there can be read, and more be written: the bucket is listed
        before its volumes are known again."""
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        store = S3Store(
            BUCKET,
            endpoint=self.endpoint,
            access_key_id=_KEY,
            secret_access_key=_SECRET,
            client_options={"allow_http": True, "timeout": timedelta(seconds=5)},
            retry_config={"max_retries": 0},
        )
        try:
            if self._marked:
                store.get(_MARK).bytes()
            store.put(_MARK, b"serves")
        except BaseError:
            return False
        self._marked = True
        return True


def _identity(name: str, actions: list[str]) -> dict[str, object]:
    credentials = [{"accessKey": name, "secretKey": _SECRET}]
    return {"name": name, "credentials": credentials, "actions": actions}

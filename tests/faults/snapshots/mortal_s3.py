"""The same over S3, where segments that nothing names lie in the trash first."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from obstore.store import S3Store

from tests.faults.snapshots.mortal import Stage
from tests.support.lives import Lives
from tests.support.redis_server import ValkeyProcess
from tests.support.s3_server import S3Process


class S3Stage(Stage):
    """Steps are requests to S3 and commands to Redis; a replica's disk is its own."""

    cost = 2

    def __init__(
        self, folder: Path, valkey: ValkeyProcess, lives: Lives, s3: S3Process
    ) -> None:
        super().__init__(folder, valkey, lives)
        url = s3.new_url()
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self._store = S3Store(
            bucket,
            prefix=prefix,
            endpoint=s3.endpoint,
            access_key_id=s3.environ["AWS_ACCESS_KEY_ID"],
            secret_access_key=s3.environ["AWS_SECRET_ACCESS_KEY"],
            client_options={"allow_http": True, "timeout": timedelta(seconds=10)},
        )
        self._objects: dict[str, bytes] = {}
        self.process.environ |= {
            **s3.environ,
            "TOWNKEEPER_BLOB_URL": url,
            "TOWNKEEPER_CACHE_DIR": str(folder / "cache"),
            "TK_ROOT": "",
        }

    def keep(self) -> None:
        self._objects = {name: self._read(name) for name in self._names()}
        self.keep_keys()

    def put_back(self) -> None:
        for name in set(self._names()) - self._objects.keys():
            self._store.delete(name)
        for name, data in self._objects.items():
            self._store.put(name, data)
        self.put_back_keys()

    def stored(self) -> dict[str, bytes]:
        return {
            name: b"" if "/segments/" in name else self._read(name)
            for name in self._names()
        }

    def _names(self) -> list[str]:
        return sorted(one["path"] for page in self._store.list() for one in page)

    def _read(self, name: str) -> bytes:
        return bytes(self._store.get(name).bytes())

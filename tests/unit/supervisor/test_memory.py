"""A large session takes no more memory than a small one, on the way out and back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[3]
GROWTH_BYTES_MAX: Final = 64 << 20
# Of the process itself: what getrusage calls the maximum counts its parent's, too.
SCRIPT: Final = """
import sys
from pathlib import Path
import apsw
from services.segments.chain import ChainBuilder
from services.segments.encode import SegmentEncoder, write_segment
from services.segments.page_map import PageMap
from services.segments.read import file_parts, verify
from services.supervisor.live_source import LiveSource
from services.supervisor.place import place

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

folder = Path(sys.argv[1])
(folder / "scratch").mkdir()
database, segment, built = folder / "agent.db", folder / "segment", folder / "built"
agent = apsw.Connection(str(database))
agent.pragma("journal_mode", "wal")
agent.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, body)")
for _ in range(100):
    agent.execute("INSERT INTO t(body) VALUES(randomblob(2000000))")
source, page_map = LiveSource(database, folder / "scratch"), PageMap()

before = peak()
with source.capture(page_map) as capture:
    encoder = SegmentEncoder(capture.header, capture.blocks(), threads=2)
    with segment.open("wb") as file:
        write_segment(file, encoder)
    capture.commit()
assert verify(segment) == encoder.info
agent.execute("UPDATE t SET body = randomblob(2000000) WHERE id < 40")
delta = folder / "delta"
with source.capture(page_map) as capture:
    encoder = SegmentEncoder(capture.header, capture.blocks(), capture.fingerprint)
    with delta.open("wb") as file:
        write_segment(file, encoder)
    capture.commit()
source.close()
agent.close()
with ChainBuilder(built) as builder:
    for path in (segment, delta):
        with path.open("rb") as file:
            builder.add(file_parts(file))
    assert builder.finish().fingerprint == page_map.fingerprint
place(built, folder / "placed.db")
assert (folder / "placed.db").stat().st_size > 200_000_000
print(peak() - before)
"""


@pytest.mark.timeout(120)
def test_saving_and_restoring_200_mb_takes_little_memory(tmp_path: Path) -> None:
    """A base, a delta of 80 MB, both verified, applied, checked and put in place."""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=110,
        check=True,
    )

    assert int(ended.stdout) < GROWTH_BYTES_MAX

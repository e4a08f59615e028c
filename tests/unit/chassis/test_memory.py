"""Threads share few heaps of the C library, where it can be told so."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from services.chassis.memory import HEAPS_MAX

# Eight threads that hold what they allocate at once; then the heaps there are.
SCRIPT = """
import ctypes, sys, threading
from services.chassis.memory import keep_few_heaps
if sys.argv[2] == "few":
    keep_few_heaps()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
libc.fclose.argtypes = [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
meet = threading.Barrier(8)
def hold():
    libc.malloc(1000)
    meet.wait()
threads = [threading.Thread(target=hold) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
out = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, out)
libc.fclose(out)
"""


@pytest.mark.parametrize("heaps", ["few", "many"])
def test_threads_share_few_heaps(tmp_path: Path, heaps: str) -> None:
    """Left alone, nearly each thread has one of its own."""
    told = tmp_path / "told"
    subprocess.run([sys.executable, "-c", SCRIPT, str(told), heaps], check=True)

    count = len(re.findall("<heap nr=", told.read_text()))
    assert (count <= HEAPS_MAX) is (heaps == "few")


def test_an_operators_number_counts(tmp_path: Path) -> None:
    """Whoever sets the variable of glibc knows why."""
    told = tmp_path / "told"
    environ = os.environ | {"MALLOC_ARENA_MAX": "5"}
    command = [sys.executable, "-c", SCRIPT, str(told), "few"]
    subprocess.run(command, check=True, env=environ)

    assert HEAPS_MAX < len(re.findall("<heap nr=", told.read_text()))

"""README's first calls, typed as they stand there."""

from pathlib import Path

import pytest

from tests.support.documents import README, run_blocks, shell_blocks
from tests.support.plane import PlaneProcess

pytestmark = [pytest.mark.e2e, pytest.mark.docs, pytest.mark.timeout(180)]


def test_the_first_calls_work(tmp_path: Path) -> None:
    """A newcomer who types what README shows gets what it promises; the cruel end of
    the section too."""
    with PlaneProcess(tmp_path / ".townkeeper", town="town") as plane:
        said = run_blocks(shell_blocks(README, section="First calls"), plane, tmp_path)
        plane.kill_everything(wipe=True)
        plane.start()
        plane.wait_running("ada")

    assert "delivered" in said
    assert '{"sent":true,"messageId":"m1"}' in said
    assert '"status":"running"' in said
    assert "townkeeper.registry.v1.RegistryService" in said
    assert "restored 1 as generation" in said
    assert (tmp_path / "notes.db").read_bytes().startswith(b"SQLite format 3\0")

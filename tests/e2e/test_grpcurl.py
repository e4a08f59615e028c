"""docs/grpcurl.md: every service listed, described and called by grpcurl alone."""

from pathlib import Path

import pytest

from tests.support.documents import ROOT, run_blocks, shell_blocks
from tests.support.plane import PlaneProcess

pytestmark = [pytest.mark.e2e, pytest.mark.docs, pytest.mark.timeout(180)]


def test_every_command_of_the_page_works(tmp_path: Path) -> None:
    """The page runs from top to bottom, against the folder where `up` was started."""
    with PlaneProcess(tmp_path / ".townkeeper", town="town") as plane:
        said = run_blocks(shell_blocks(ROOT / "docs" / "grpcurl.md"), plane, tmp_path)

    assert '"status": "SERVING"' in said
    assert "rpc GetAgent" in said
    assert '"reason":"TOKEN_MISSING"' in said
    assert '"reason":"LEASE_FENCED"' in said
    assert '"reason":"SNAPSHOT_HELD"' in said

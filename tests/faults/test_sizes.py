"""The campaign of `size_campaign` in small; `make sizes` runs it whole."""

from pathlib import Path

import pytest

from tests.faults.size_campaign import play


@pytest.mark.campaign
@pytest.mark.faults
@pytest.mark.timeout(300)
def test_no_process_grows_with_what_passes_through(tmp_path: Path) -> None:
    """Twice the bound of a supervisor, and a hundred streams of the service."""
    steps = list(play(tmp_path, size_mb=130, streams=100, stream_mb=5))

    assert 5 == len(steps)
    assert [] == [complaint for step in steps for complaint in step.complaints]

"""The campaign of `kill_campaign`, in a few rounds; `make kills` runs it whole."""

import pytest

from tests.faults.campaign import asked
from tests.faults.kill_campaign import play


@pytest.mark.kilo
@pytest.mark.campaign
@pytest.mark.faults
@pytest.mark.timeout(900)
def test_killed_containers_come_back_whole() -> None:
    """No save that was acknowledged is missing, nothing accepted is lost or twice."""
    rounds = play(*asked(1), print)

    assert [] == [complaint for one in rounds for complaint in one.complaints]

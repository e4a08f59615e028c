"""The campaign of `takeover_campaign`, a few rounds; `make takeovers` runs it whole."""

import pytest

from tests.faults.campaign import asked
from tests.faults.takeover_campaign import play


@pytest.mark.campaign
@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_agents_of_a_dead_container_run_on_in_the_others() -> None:
    """In time, once each, and with all that had been acknowledged."""
    rounds = play(*asked(2), print)

    assert [] == [complaint for one in rounds for complaint in one.complaints]
    assert sum(one.lost for one in rounds)

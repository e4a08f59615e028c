"""The campaign of `fencing_campaign`, in a few rounds; `make fencing` runs it whole."""

import pytest

from tests.faults.campaign import asked
from tests.faults.fencing_campaign import play


@pytest.mark.campaign
@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_an_owner_that_wakes_up_late_commits_nothing() -> None:
    """Each wakening is shown a refusal, and the history goes on without it."""
    rounds = play(*asked(2), print)

    assert [] == [complaint for one in rounds for complaint in one.complaints]
    assert all(one.refused_s for one in rounds)

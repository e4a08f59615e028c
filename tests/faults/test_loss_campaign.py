"""The campaign of `loss_campaign`, in a few rounds; `make losses` runs it whole."""

import pytest

from tests.faults.campaign import asked
from tests.faults.loss_campaign import play


@pytest.mark.campaign
@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_a_kill_loses_only_what_was_not_yet_saved() -> None:
    """Nothing that `SaveAgent` said OK to, no state that never was, and of the rest at
    most the last moments."""
    rounds = play(*asked(2), print)

    assert [] == [complaint for one in rounds for complaint in one.complaints]

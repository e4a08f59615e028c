"""The campaign of `valkey_campaign` in a few rounds; whole: `make valkey-kills`."""

import pytest

from tests.faults.campaign import asked
from tests.faults.snapshots.valkey_campaign import play


@pytest.mark.campaign
@pytest.mark.faults
@pytest.mark.redis
@pytest.mark.timeout(3600)
def test_a_killed_valkey_forgets_nothing() -> None:
    """Each acknowledged generation is there, and each upload made one of them."""
    rounds = play(*asked(2), print)

    assert [] == [complaint for one in rounds for complaint in one.complaints]

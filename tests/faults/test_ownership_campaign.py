"""Nobody owns what another owns: the campaign of `ownership_campaign`, in short, and
defects that it must find; `make ownership` runs it whole."""

import asyncio
from pathlib import Path

import pytest

from tests.faults.campaign import asked
from tests.faults.ownership_campaign import STEPS, Round, play, play_round
from tests.support.ownership_faults import FAULTS
from tests.support.redis_server import ValkeyProcess
from tests.support.watch_faults import Plant

pytestmark = [pytest.mark.campaign, pytest.mark.faults, pytest.mark.timeout(3600)]


def test_there_is_one_owner_at_a_time() -> None:
    """However many claim, renew, sleep and come back at once."""
    rounds = play(*asked(1), print)

    assert [] == [complaint for one in rounds for complaint in one.complaints]
    assert all(one.claims > 100 and one.commits > 100 for one in rounds)


@pytest.mark.parametrize("plant", FAULTS.values(), ids=FAULTS.keys())
def test_a_planted_defect_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Plant
) -> None:
    """Else the histories would prove nothing."""
    plant(monkeypatch)
    result = Round(1)
    with ValkeyProcess(tmp_path) as valkey:
        for seed in range(1, 4):
            asyncio.run(play_round(valkey, result, seed, STEPS))
            if result.complaints:
                return
    pytest.fail("three histories did not find it")

"""The campaign of `crowd_campaign` in small, and defects that it must find; `make
crowd` runs it whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.crowd_campaign import crowd, large_town, play, staged

pytestmark = [pytest.mark.campaign, pytest.mark.faults, pytest.mark.timeout(120)]

CARELESS = "tests.faults.registry.careless_registry"


async def test_a_crowd_takes_little(tmp_path: Path) -> None:
    """Of Redis, of the registry and of every answer, however many there are. So many
    that what Redis takes once, a hundred kB more or less, does not count."""
    figures = await play(tmp_path, agents=4_000, towns=400, large=600)

    assert [] == figures.complaints


async def test_fat_records_are_found(tmp_path: Path) -> None:
    """Else the bound on what Redis keeps would prove nothing."""
    async with staged(tmp_path, CARELESS, TK_DEFECT="fat records") as stage:
        await crowd(stage, agents=200, towns=20)

    assert ["Redis, for an agent"] == _what(stage.figures.complaints)


@pytest.mark.parametrize(
    ("defect", "complaint"),
    [
        ("no end of a page", "the largest page"),
        ("a list that looks for keys", "KEYS was asked of Redis"),
        ("a watch that reads all records", "entries read of agents"),
        ("a watch that reads all of the log", "entries read of changes"),
    ],
)
async def test_a_careless_read_is_found(
    tmp_path: Path, defect: str, complaint: str
) -> None:
    """Nor would those on answers, and on what Redis is asked."""
    async with staged(tmp_path, CARELESS, TK_DEFECT=defect) as stage:
        await large_town(stage, 1_200)

    assert complaint in _what(stage.figures.complaints)


def _what(complaints: list[str]) -> list[str]:
    return [complaint.partition(":")[0] for complaint in complaints]

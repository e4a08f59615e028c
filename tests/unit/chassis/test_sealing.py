"""Texts sealed for one place: opened there and nowhere else, by any key of a folder."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.key_files import KeysError
from services.chassis.sealing import SealingKeys, rotate_sealing, sealing_files
from tests.support.clock import ManualClock

PLACE = ("registry spec", "town-1", "ada", "S")
TEXT = b'{"envVars": {"TOKEN": "s3cret"}}'
# Sealed by the first released form, with the key of 64 bytes 0, 1, 2 …
OLD_KID = "20260101T000000000000-0badcafe"
OLD_SEALED = (
    "3230323630313031543030303030303030303030302d30626164636166652ec03cf0b675"
    "1924e8918dad0f0b08b3eaab3748530f513663463fc0ea77d6e3d79e70a2d719d13206ba"
    "6f92ed16534ae1"
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def keys(tmp_path: Path, clock: ManualClock) -> SealingKeys:
    return SealingKeys.create(tmp_path / "keys", clock)


def reason(keys: SealingKeys, sealed: bytes, *place: str) -> Reason:
    with pytest.raises(ServiceError) as refused:
        keys.open(sealed, *place)
    return refused.value.reason


def test_there_and_back(keys: SealingKeys) -> None:
    """Nothing of the text is left to be seen meanwhile."""
    sealed = keys.seal(TEXT, *PLACE)

    assert TEXT == keys.open(sealed, *PLACE)
    assert b"s3cret" not in sealed
    assert b"TOKEN" not in sealed


def test_the_same_text_in_the_same_place_is_the_same(keys: SealingKeys) -> None:
    """So that a write that changes nothing can be told; elsewhere it is another."""
    assert keys.seal(TEXT, *PLACE) == keys.seal(TEXT, *PLACE)
    assert keys.seal(TEXT, *PLACE) != keys.seal(TEXT, *PLACE[:2], "bob", "S")


@pytest.mark.parametrize("part", range(len(PLACE)))
def test_it_opens_in_its_place_only(keys: SealingKeys, part: int) -> None:
    """What was sealed for one town and agent is of no use to another."""
    sealed = keys.seal(TEXT, *PLACE)
    place = [*PLACE]
    place[part] += "x"

    assert Reason.RECORD_CORRUPT is reason(keys, sealed, *place)


def test_places_are_not_glued(keys: SealingKeys) -> None:
    """Town `a` with agent `bc` is not town `ab` with agent `c`."""
    sealed = keys.seal(TEXT, "a", "bc")

    assert Reason.RECORD_CORRUPT is reason(keys, sealed, "ab", "c")


@pytest.mark.parametrize("at", [0, 40, -1])
def test_what_was_changed_does_not_open(keys: SealingKeys, at: int) -> None:
    """One bit is enough, wherever it is."""
    sealed = bytearray(keys.seal(TEXT, *PLACE))
    sealed[at] ^= 1

    found = reason(keys, bytes(sealed), *PLACE)

    assert found in {Reason.RECORD_CORRUPT, Reason.KEYS_UNAVAILABLE}


@pytest.mark.parametrize("sealed", [b"", b".", b"\xff.x", b"no-key.x"])
def test_what_was_never_sealed_does_not_open(keys: SealingKeys, sealed: bytes) -> None:
    """Whatever lies there, the answer is a plain refusal."""
    assert Reason.KEYS_UNAVAILABLE is reason(keys, sealed, *PLACE)


def test_a_text_that_was_cut_does_not_open(keys: SealingKeys) -> None:
    """Down to nothing behind the key's id."""
    sealed = keys.seal(TEXT, *PLACE)

    for length in range(sealed.index(b".") + 1, len(sealed)):
        assert Reason.RECORD_CORRUPT is reason(keys, sealed[:length], *PLACE)


class TestRotation:
    def test_a_new_key_seals_after_its_lead(
        self, keys: SealingKeys, clock: ManualClock
    ) -> None:
        """Until then every replica has had time to see it; the old one opens on."""
        old = keys.seal(TEXT, *PLACE)
        kid = rotate_sealing(keys._folder, 60, clock)

        assert old == keys.seal(TEXT, *PLACE)
        clock.advance(61)

        new = keys.seal(TEXT, *PLACE)
        assert new.startswith(kid.encode())
        assert [TEXT, TEXT] == [keys.open(each, *PLACE) for each in (old, new)]

    def test_a_key_that_was_not_seen_yet_is_looked_for(
        self, keys: SealingKeys, clock: ManualClock
    ) -> None:
        """Another replica may have sealed with it already."""
        rotate_sealing(keys._folder, 0, clock)
        clock.advance(1)
        elsewhere = SealingKeys(keys._folder, clock)

        assert TEXT == keys.open(elsewhere.seal(TEXT, *PLACE), *PLACE)

    def test_a_key_that_was_removed_is_missed_at_the_next_start(
        self, keys: SealingKeys, clock: ManualClock
    ) -> None:
        """By its name, so that somebody can put it back."""
        sealed = keys.seal(TEXT, *PLACE)
        kid = keys.kid
        rotate_sealing(keys._folder, 0, clock)
        sealing_files(keys._folder)[0].unlink()
        clock.advance(10)

        assert kid != keys.kid
        assert TEXT == keys.open(sealed, *PLACE)
        with pytest.raises(ServiceError, match=kid):
            SealingKeys(keys._folder, clock).open(sealed, *PLACE)

    def test_digests_stay_when_keys_are_added(
        self, keys: SealingKeys, clock: ManualClock, tmp_path: Path
    ) -> None:
        """A request that is repeated is known again; who has no key learns nothing."""
        before = keys.digest("a spec")
        rotate_sealing(keys._folder, 0, clock)
        clock.advance(10)

        assert before == SealingKeys(keys._folder, clock).digest("a spec")
        assert before != keys.digest("another")
        assert before != SealingKeys.create(tmp_path / "other").digest("a spec")


class TestFiles:
    def test_only_the_owner_reads_them(self, keys: SealingKeys) -> None:
        """As with the keys that sign."""
        (file,) = sealing_files(keys._folder)

        assert 0o600 == stat.S_IMODE(file.stat().st_mode)
        file.chmod(0o644)
        with pytest.raises(KeysError, match="chmod 600"):
            SealingKeys(keys._folder)

    @pytest.mark.parametrize("raw", ["", "00", "x" * 128, "00" * 63])
    def test_a_broken_one_stops_the_start(self, keys: SealingKeys, raw: str) -> None:
        """Rather than a key that everybody could guess."""
        (file,) = sealing_files(keys._folder)
        file.write_text(raw)

        with pytest.raises(KeysError, match=str(file)):
            SealingKeys(keys._folder)

    def test_an_empty_folder_cannot_seal(self, tmp_path: Path) -> None:
        """The refusal says how to make one."""
        with pytest.raises(KeysError, match="keys rotate --sealing"):
            SealingKeys(tmp_path)

    def test_one_that_breaks_later_changes_nothing(
        self, keys: SealingKeys, clock: ManualClock
    ) -> None:
        """What is known is used on."""
        sealed = keys.seal(TEXT, *PLACE)
        (keys._folder / "sealing-20990101T000000000000-x.key").write_text("broken")
        clock.advance(10)

        assert sealed == keys.seal(TEXT, *PLACE)


def test_what_the_first_form_sealed_is_read_for_ever(tmp_path: Path) -> None:
    """A golden record: key, place and text are fixed."""
    file = tmp_path / f"sealing-{OLD_KID}.key"
    file.write_text(bytes(range(64)).hex())
    file.chmod(0o600)

    keys = SealingKeys(tmp_path)

    assert TEXT == keys.open(bytes.fromhex(OLD_SEALED), *PLACE)

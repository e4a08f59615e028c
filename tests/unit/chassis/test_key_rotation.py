"""A signing key's life: published, signing, verifying, gone; and nobody refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from services.chassis import key_files
from services.chassis.access import RENEWAL_GRACE_S
from services.chassis.auth import Kind, Verifier
from services.chassis.errors import ServiceError
from services.chassis.key_sources import LOOK_EVERY_S, DirectoryKeys, FetchedKeys
from services.chassis.keys import LEAD_S, UNNOTED_TTL_S, KeyRing, KeysError, KeyState
from tests.support.clock import ManualClock

HOUR_S = 3600.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def ring(tmp_path: Path, clock: ManualClock) -> KeyRing:
    return KeyRing.create(tmp_path / "keys", clock)


def states(ring: KeyRing) -> list[KeyState]:
    return [info.state for info in KeyRing.load(ring.folder, ring.clock).infos()]


class TestLead:
    def test_a_key_is_published_before_it_signs(
        self, ring: KeyRing, clock: ManualClock
    ) -> None:
        """Whoever verifies sees it at once; whoever signs takes it at its time."""
        rotated = ring.rotate(LEAD_S)

        assert 2 == len(rotated.jwks()["keys"])
        assert ring.kid == rotated.kid
        clock.advance(LEAD_S - 1)
        assert ring.kid == rotated.kid
        clock.advance(1)
        assert rotated.keys[-1][0] == rotated.kid

    def test_it_can_be_told_to_sign_at_once(self, ring: KeyRing) -> None:
        """Who knows that all have learnt the key need not wait; no second one is
        made for that."""
        waiting = ring.rotate(LEAD_S)

        told = waiting.rotate()

        assert 2 == len(told.keys)
        assert told.keys[-1][0] == told.kid == KeyRing.load(ring.folder, ring.clock).kid

    def test_one_rotation_at_a_time(self, ring: KeyRing) -> None:
        """A second key behind one that waits would only make the first one useless."""
        waiting = ring.rotate(LEAD_S)

        with pytest.raises(KeysError, match="is published and signs from 2026-01-01T"):
            waiting.rotate(LEAD_S)

    def test_a_lead_after_a_clock_that_went_back(
        self, ring: KeyRing, clock: ManualClock
    ) -> None:
        """The old key goes on until the new one's time, whatever the clock did."""
        clock.jump(-HOUR_S)

        rotated = ring.rotate(60)

        assert ring.kid == rotated.kid
        clock.advance(HOUR_S + 1)
        assert rotated.keys[-1][0] == rotated.kid


class TestPrune:
    def test_a_key_stays_while_a_token_of_it_lives(
        self, ring: KeyRing, clock: ManualClock
    ) -> None:
        """As long as the longest life that was minted, whoever minted it, and the day
        after in which that could be renewed."""
        ring.mint(Kind.CONTAINER, town="t", ttl_s=48 * HOUR_S)
        ring.mint(Kind.CONTAINER, town="t", ttl_s=HOUR_S)
        clock.advance(1)
        rotated = ring.rotate()

        clock.advance((48 + 24) * HOUR_S)
        assert [KeyState.VERIFIES, KeyState.SIGNS] == states(ring)
        assert [] == rotated.prune()
        clock.advance(HOUR_S + 61)
        assert [KeyState.EXPIRED, KeyState.SIGNS] == states(ring)
        assert [ring.kid] == rotated.prune()
        assert [KeyState.SIGNS] == states(ring)
        assert [f"signing-{rotated.kid}.pem"] == [
            each.name for each in ring.folder.iterdir()
        ]

    def test_what_was_never_noted_is_waited_for(
        self, ring: KeyRing, clock: ManualClock
    ) -> None:
        """A service that cannot write into the folder signs short lives only; so
        much is waited after the last moment at which it may have signed."""
        rotated = ring.rotate(LEAD_S)

        clock.advance(LEAD_S + UNNOTED_TTL_S + RENEWAL_GRACE_S)
        assert [] == rotated.prune()
        clock.advance(120)
        assert [ring.keys[0][0]] == rotated.prune()

    def test_the_key_that_signs_and_the_next_one_stay(self, ring: KeyRing) -> None:
        """Even when all that is old must go."""
        waiting = ring.rotate().rotate(LEAD_S)

        assert [ring.kid] == waiting.prune(all_old=True)
        assert [KeyState.SIGNS, KeyState.PUBLISHED] == states(ring)

    def test_a_folder_that_cannot_be_written_mints_short_lives_only(
        self, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody could know how long the key is needed."""

        def refuse(*_: object) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(key_files, "note_expiry", refuse)

        assert ring.mint(Kind.CONTAINER, town="t", ttl_s=UNNOTED_TTL_S)
        with pytest.raises(KeysError, match="at most 8 hours"):
            ring.mint(Kind.CONTAINER, town="t", ttl_s=UNNOTED_TTL_S + 1)

    def test_notes_do_not_pile_up(self, ring: KeyRing, clock: ManualClock) -> None:
        """One for each key, whatever is minted."""
        for _ in range(5):
            ring.mint(Kind.CONTAINER, town="t")
            clock.advance(HOUR_S)

        assert 2 == len(list(ring.folder.iterdir()))


async def test_minting_makes_no_verifier_read_its_keys_again(
    ring: KeyRing, clock: ManualClock
) -> None:
    """Notes about lives are none about keys."""
    keys = DirectoryKeys(ring.folder, clock)

    ring.mint(Kind.CONTAINER, town="t")
    clock.advance(LOOK_EVERY_S)
    keys.refresh()

    assert 0 == keys.version


class Hop:
    """A service that follows another one's published keys, and loses one fetch in
    two."""

    def __init__(
        self, source: Callable[[], Awaitable[bytes]], clock: ManualClock
    ) -> None:
        self._source = source
        self._tries = 0
        self.keys = FetchedKeys("the next hop", self._download, clock)
        self.verifier = Verifier(self.keys, clock=clock)

    async def _download(self) -> bytes:
        self._tries += 1
        if self._tries % 2 == 0:
            raise TimeoutError
        return await self._source()

    async def publish(self) -> bytes:
        return json.dumps(self.verifier.jwks()).encode()


@pytest.mark.parametrize("invented", [0, 2], ids=["quiet", "invented key ids"])
async def test_nobody_is_refused_at_the_end_of_a_chain(
    ring: KeyRing, clock: ManualClock, invented: int
) -> None:
    """Registry by URL from the gateway, supervisor from the registry, both losing
    fetches, perhaps somebody who invents key ids to use up the tries: through two
    rotations each token is believed at its first use."""
    gateway = Verifier(DirectoryKeys(ring.folder, clock), clock=clock)

    async def from_gateway() -> bytes:
        return json.dumps(gateway.jwks()).encode()

    registry = Hop(from_gateway, clock)
    supervisor = Hop(registry.publish, clock)
    hops = (gateway, registry.verifier, supervisor.verifier)
    # All that the last hop saw, by the key that had signed it.
    seen: dict[str, int] = {}

    async def use(token: str, kid: str) -> None:
        for hop in hops:
            await hop.verify(token)
        seen[kid] = seen.get(kid, 0) + 1

    kids = [f"20990101T000000000000-{n:08x}" for n in range(invented)]
    for _ in range(2):
        ring = ring.rotate(LEAD_S)
        for _ in range(int(LEAD_S // 5) + 10):
            await use(ring.mint(Kind.CONTAINER, town="t"), ring.kid)
            for kid in kids:
                for follower in (registry.keys, supervisor.keys):
                    await follower.find(kid)
            clock.advance(5)
            # Lets the fetches that run in the background end.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        clock.advance(1)

    assert [kid for kid, _ in ring.keys] == list(seen)
    for hop in hops:
        await hop.aclose()


async def test_without_a_lead_the_chain_would_refuse(
    ring: KeyRing, clock: ManualClock
) -> None:
    """Why there is one: a key that signs at once is unknown to a follower that has
    just asked."""
    source = Verifier(DirectoryKeys(ring.folder, clock), clock=clock)

    async def published() -> bytes:
        return json.dumps(source.jwks()).encode()

    follower = FetchedKeys("the source", published, clock)
    verifier = Verifier(follower, clock=clock)
    await verifier.verify(ring.mint(Kind.CONTAINER, town="t"))

    with pytest.raises(ServiceError):
        await verifier.verify(ring.rotate().mint(Kind.CONTAINER, town="t"))

"""Keys as files and as a JWKS: made, rotated, published, fetched."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.chassis.auth import Kind, Verifier
from services.chassis.errors import Reason, ServiceError
from services.chassis.key_sources import (
    FETCH_EVERY_S,
    FETCH_PAUSE_S,
    JWKS_BYTES_MAX,
    LOOK_EVERY_S,
    DirectoryKeys,
    UrlKeys,
)
from services.chassis.keys import KeyRing, KeysError, parse_jwks, read_public_keys
from tests.support.clock import ManualClock
from tests.support.waiting import wait_until

URL = "http://issuer/jwks.json"
LARGE = b'{"keys": [], "padding": "' + b"x" * JWKS_BYTES_MAX + b'"}'


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def ring(tmp_path: Path, clock: ManualClock) -> KeyRing:
    return KeyRing.create(tmp_path / "keys", clock)


class TestKeyRing:
    def test_creates_what_only_the_owner_reads(self, ring: KeyRing) -> None:
        """The folder and the key in it are closed to everybody else."""
        (file,) = ring.folder.iterdir()

        assert stat.S_IMODE(ring.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.name == f"signing-{ring.kid}.pem"

    def test_creating_twice_keeps_the_key(self, ring: KeyRing) -> None:
        """A second start finds the keys of the first."""
        assert KeyRing.create(ring.folder).kid == ring.kid

    def test_rotation_adds_and_the_newest_signs(
        self, ring: KeyRing, clock: ManualClock
    ) -> None:
        """Rotation leaves the old key to prove what it signed."""
        clock.advance(1)

        rotated = ring.rotate()

        assert rotated.kid > ring.kid
        assert {ring.kid, rotated.kid} == read_public_keys(ring.folder).keys()

    def test_the_newest_signs_though_the_clock_went_back(
        self, ring: KeyRing, clock: ManualClock
    ) -> None:
        """A clock that was set back does not bring an old key back."""
        clock.jump(-3600)

        assert ring.rotate().kid > ring.kid

    def test_a_name_that_hides_new_keys_stops_rotation(self, ring: KeyRing) -> None:
        """A key named by hand that would always sign is pointed out."""
        (file,) = ring.folder.iterdir()
        file.rename(ring.folder / "signing-production.pem")

        with pytest.raises(KeysError, match="production"):
            KeyRing.load(ring.folder).rotate()

    def test_a_folder_without_keys_cannot_sign(self, tmp_path: Path) -> None:
        """The refusal says how to make one."""
        with pytest.raises(KeysError, match="townkeeper keys rotate"):
            KeyRing.load(tmp_path)

    @pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o666])
    def test_a_key_that_others_reach_is_refused(self, ring: KeyRing, mode: int) -> None:
        """A key that leaked or may be swapped signs nothing; the fix is named."""
        (file,) = ring.folder.iterdir()
        file.chmod(mode)

        with pytest.raises(KeysError, match=f"chmod 600 {file}"):
            KeyRing.load(ring.folder)

    def test_a_group_may_read(self, ring: KeyRing) -> None:
        """That is how a mounted Kubernetes secret looks."""
        (file,) = ring.folder.iterdir()
        file.chmod(0o440)

        assert KeyRing.load(ring.folder).kid == ring.kid

    @pytest.mark.parametrize("raw", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\n"])
    def test_a_broken_key_is_named(self, ring: KeyRing, raw: bytes) -> None:
        """Whoever must repair it is told which file."""
        (file,) = ring.folder.iterdir()
        file.write_bytes(raw)

        with pytest.raises(KeysError, match=str(file)):
            KeyRing.load(ring.folder)

    @pytest.mark.parametrize(
        ("kind", "given"),
        [
            pytest.param(Kind.CONTAINER, {}, id="no town"),
            pytest.param(Kind.CONTAINER, {"towns": ["a", "b"]}, id="two towns"),
            pytest.param(Kind.CONTAINER, {"town": "*"}, id="container of all towns"),
            pytest.param(Kind.CONTAINER, {"town": "../x"}, id="malformed town"),
            pytest.param(Kind.AGENT, {"town": "t", "rig": "r"}, id="no agent"),
            pytest.param(Kind.AGENT, {"town": "t", "agent": "a"}, id="no rig"),
            pytest.param(Kind.USER, {"town": "t"}, id="no user"),
            pytest.param(Kind.USER, {"town": "*", "user": "u"}, id="user of all"),
            pytest.param(Kind.OPERATOR, {}, id="operator of nothing"),
        ],
    )
    def test_mints_no_token_that_would_be_refused(
        self, ring: KeyRing, kind: Kind, given: dict[str, Any]
    ) -> None:
        """What a verifier would not believe is not made in the first place."""
        with pytest.raises(ServiceError):
            ring.mint(kind, **given)


class TestJwks:
    def test_shows_public_keys_only(self, ring: KeyRing) -> None:
        """Nothing private leaves by this door."""
        (key,) = ring.jwks()["keys"]

        assert key.keys() == {"kty", "crv", "use", "alg", "kid", "x"}

    def test_there_and_back(self, ring: KeyRing) -> None:
        """What is published is what is trusted."""
        keys = parse_jwks(json.dumps(ring.jwks()).encode(), "here")

        assert keys == read_public_keys(ring.folder)

    def test_other_kinds_of_keys_are_passed_over(self, ring: KeyRing) -> None:
        """A key set may hold keys for other purposes, or without an id."""
        mixed = ring.jwks()
        mixed["keys"] += [{"kty": "RSA", "kid": "r"}, {"kty": "OKP", "crv": "Ed25519"}]

        assert parse_jwks(json.dumps(mixed).encode(), "here").keys() == {ring.kid}

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"[]",
            b"{}",
            b'{"keys": 7}',
            b'{"keys": [7]}',
            b'{"keys": [{"crv": "Ed25519", "kid": "a", "x": "short"}]}',
            b'{"keys": [{"crv": "Ed25519", "kid": "a"}]}',
            b"[" * 100_000,
        ],
    )
    def test_a_malformed_one_is_refused(self, raw: bytes) -> None:
        """Whatever comes in its place is one clear error."""
        with pytest.raises(KeysError, match="from here"):
            parse_jwks(raw, "here")


class TestDirectoryKeys:
    def test_an_empty_folder_stops_the_start(self, tmp_path: Path) -> None:
        """A service that could prove nothing does not pretend to serve."""
        with pytest.raises(KeysError, match="holds no keys"):
            DirectoryKeys(tmp_path)

    async def test_public_keys_alone_will_do(
        self, ring: KeyRing, tmp_path: Path
    ) -> None:
        """A service that only verifies needs no private key."""
        folder = tmp_path / "public"
        folder.mkdir()
        (folder / "jwks.json").write_text(json.dumps(ring.jwks()))

        assert await DirectoryKeys(folder).find(ring.kid) is not None

    async def test_a_new_key_is_found_at_once(self, ring: KeyRing) -> None:
        """Rotation costs no refusal: an unknown key is a reason to look."""
        keys = DirectoryKeys(ring.folder, ManualClock())

        rotated = ring.rotate()

        assert await keys.find(rotated.kid) is not None

    async def test_broken_files_change_nothing(
        self, ring: KeyRing, clock: ManualClock
    ) -> None:
        """While the folder cannot be read, the keys known stay good."""
        keys = DirectoryKeys(ring.folder, clock)
        (ring.folder / "jwks.json").write_text("half writ")
        clock.advance(LOOK_EVERY_S)

        keys.refresh()

        assert await keys.find(ring.kid) is not None
        assert keys.version == 0


class Issuer(httpx.AsyncBaseTransport):
    """A place that publishes keys, and fails on request."""

    def __init__(self, ring: KeyRing) -> None:
        self.body = json.dumps(ring.jwks()).encode()
        self.status = 200
        self.requests = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        return httpx.Response(self.status, content=self.body)


class TestUrlKeys:
    @pytest.fixture
    def issuer(self, ring: KeyRing) -> Issuer:
        return Issuer(ring)

    @pytest.fixture
    def keys(self, issuer: Issuer, clock: ManualClock) -> UrlKeys:
        return UrlKeys(URL, clock, issuer)

    async def test_fetches_when_first_asked(
        self, keys: UrlKeys, ring: KeyRing, clock: ManualClock
    ) -> None:
        """A token is proven with keys from the issuer."""
        verifier = Verifier(keys, clock=clock)

        assert (await verifier.verify(ring.mint(Kind.CONTAINER, town="t"))).town == "t"

    async def test_many_callers_share_one_fetch(
        self, keys: UrlKeys, issuer: Issuer, ring: KeyRing
    ) -> None:
        """A crowd at the start does not trample the issuer."""
        found = await asyncio.gather(*(keys.find(ring.kid) for _ in range(20)))

        assert None not in found
        assert issuer.requests == 1

    async def test_a_new_key_is_fetched(
        self, keys: UrlKeys, issuer: Issuer, ring: KeyRing, clock: ManualClock
    ) -> None:
        """An unknown key id is a reason to ask again, and ends old memories."""
        await keys.find(ring.kid)
        clock.advance(FETCH_PAUSE_S)
        rotated = ring.rotate()
        issuer.body = json.dumps(rotated.jwks()).encode()

        assert await keys.find(rotated.kid) is not None
        assert keys.version == 2

    async def test_unknown_ids_do_not_drive_the_fetching(
        self, keys: UrlKeys, issuer: Issuer, ring: KeyRing
    ) -> None:
        """Anybody can invent key ids; the issuer hears of it now and then only."""
        await keys.find(ring.kid)

        for number in range(50):
            assert await keys.find(f"invented-{number}") is None

        assert issuer.requests == 1

    async def test_keys_age(
        self, keys: UrlKeys, issuer: Issuer, ring: KeyRing, clock: ManualClock
    ) -> None:
        """A key that the issuer took back is forgotten without a new one appearing."""
        await keys.find(ring.kid)
        issuer.body = b'{"keys": []}'
        clock.advance(FETCH_EVERY_S)

        keys.refresh()

        await wait_until(lambda: keys.version == 2)
        await keys.aclose()

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            pytest.param(500, b"", id="error"),
            pytest.param(200, b"<html>", id="not JSON"),
            pytest.param(200, LARGE, id="too large"),
        ],
    )
    async def test_an_issuer_in_trouble_changes_nothing(
        self,
        keys: UrlKeys,
        issuer: Issuer,
        ring: KeyRing,
        clock: ManualClock,
        status: int,
        body: bytes,
    ) -> None:
        """The keys known stay good while no others can be had."""
        await keys.find(ring.kid)
        issuer.status, issuer.body = status, body
        clock.advance(FETCH_EVERY_S)

        assert await keys.find("unknown") is None

        assert await keys.find(ring.kid) is not None
        assert issuer.requests == 2

    async def test_never_having_had_keys_is_an_outage(
        self, keys: UrlKeys, issuer: Issuer, ring: KeyRing
    ) -> None:
        """Tokens are not called invalid where nothing could be proven."""
        issuer.status = 503

        with pytest.raises(ServiceError) as refused:
            await keys.find(ring.kid)

        assert refused.value.reason is Reason.KEYS_UNAVAILABLE

"""Whose tokens are believed: one source of keys, and a secret worth the name."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.chassis.auth import Kind
from services.chassis.errors import ServiceError
from services.chassis.key_sources import DirectoryKeys
from services.chassis.keys import KeyRing
from services.chassis.settings import SettingsError, load
from services.chassis.trust import OptionalTrustSettings, TrustSettings


async def test_a_folder_of_keys(tmp_path: Path) -> None:
    """Tokens of the folder's keys are believed."""
    ring = KeyRing.create(tmp_path / "keys")
    settings = load(TrustSettings, {"TOWNKEEPER_KEYS_DIR": str(ring.folder)})

    caller = await settings.verifier().verify(ring.mint(Kind.CONTAINER, town="t"))

    assert caller.town == "t"


@pytest.mark.parametrize("given", [set(), {"dir", "url"}], ids=["none", "both"])
def test_one_of_the_two(tmp_path: Path, given: set[str]) -> None:
    """Neither source, or both, leaves open whom to believe."""
    environ = {}
    if "dir" in given:
        environ["TOWNKEEPER_KEYS_DIR"] = str(tmp_path)
    if "url" in given:
        environ["TOWNKEEPER_JWKS_URL"] = "http://h/jwks.json"

    with pytest.raises(SettingsError, match="give one of the two"):
        load(TrustSettings, environ)


async def test_a_process_that_knows_where_to_ask_may_be_given_neither(
    tmp_path: Path,
) -> None:
    """Keys given win; without any, those that it asks for are believed."""
    ring = KeyRing.create(tmp_path / "keys")
    asked = DirectoryKeys(ring.folder)
    token = ring.mint(Kind.CONTAINER, town="t")
    none: dict[str, str] = {}
    given = {"TOWNKEEPER_KEYS_DIR": str(KeyRing.create(tmp_path / "o").folder)}

    settings = load(OptionalTrustSettings, none)
    assert (await settings.verifier(otherwise=asked).verify(token)).town == "t"

    settings = load(OptionalTrustSettings, given)
    with pytest.raises(ServiceError):
        await settings.verifier(otherwise=asked).verify(token)


def test_a_short_secret_stops_the_start(tmp_path: Path) -> None:
    """A secret that can be guessed would sign anything; its text is not shown."""
    file = tmp_path / "secret"
    file.write_text("hunter2\n")
    environ = {
        "TOWNKEEPER_KEYS_DIR": str(tmp_path),
        "TOWNKEEPER_HS256_SECRET_FILE": str(file),
    }

    with pytest.raises(SettingsError, match="under 32 bytes") as refused:
        load(TrustSettings, environ)

    assert "hunter2" not in str(refused.value)

"""TLS settings that make sense only together."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.chassis.settings import SettingsError, load
from services.chassis.tls import TlsSettings


def test_without_any_there_is_no_tls() -> None:
    """Nothing set means plain connections."""
    settings = load(TlsSettings, {})

    assert settings.server_credentials() is None
    assert settings.channel_credentials() is None


@pytest.mark.parametrize("name", ["TOWNKEEPER_TLS_CERT", "TOWNKEEPER_TLS_KEY"])
def test_half_a_pair_is_a_fault(tmp_path: Path, name: str) -> None:
    """A certificate without its key, or a key alone, stops the start."""
    file = tmp_path / "file.pem"
    file.touch()

    with pytest.raises(SettingsError, match="give both or neither"):
        load(TlsSettings, {name: str(file)})


def test_a_missing_file_is_a_fault() -> None:
    """The variable is named that points nowhere."""
    with pytest.raises(SettingsError, match="TOWNKEEPER_TLS_CA names no readable"):
        load(TlsSettings, {"TOWNKEEPER_TLS_CA": "/nowhere/ca.pem"})

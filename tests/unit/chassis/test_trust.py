"""Which folder of keys a process accepts."""

from pathlib import Path

import pytest

from services.chassis.settings import SettingsError, load
from services.chassis.trust import TrustSettings


def test_keys_may_lie_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A mounted secret is read-only; it must do."""
    tmp_path.chmod(0o555)

    settings = load(TrustSettings, {"TOWNKEEPER_KEYS_DIR": str(tmp_path)})

    assert tmp_path == settings.keys_dir


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Nobody makes it later: keys are given to a process, not by it."""
    with pytest.raises(SettingsError, match="TOWNKEEPER_KEYS_DIR"):
        load(TrustSettings, {"TOWNKEEPER_KEYS_DIR": str(tmp_path / "absent")})

"""The command line against canned services."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.cli.main import run
from tests.support.canned_services import CannedServices


@dataclass
class CommandLine:
    """Runs commands as a person would; keeps what they printed."""

    services: CannedServices
    capture: pytest.CaptureFixture[str]
    out: str = ""
    err: str = ""

    def __call__(self, *arguments: str, address: str | None = None) -> int:
        where = address or self.services.address
        options = [f"--registry={where}", f"--snapshots={where}"]
        options += ["--token=some-token", "--town=town-1", "--data-dir=/nonexistent"]
        at = arguments.index("--") if "--" in arguments else len(arguments)
        code = run([*arguments[:at], *options, *arguments[at:]])
        self.out, self.err = self.capture.readouterr()
        return code


@pytest.fixture
def services() -> Iterator[CannedServices]:
    with CannedServices() as services:
        yield services


@pytest.fixture
def townkeeper(
    services: CannedServices,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    return CommandLine(services, capsys)

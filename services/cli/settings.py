"""What `up` and `demo` take over from their environment, checked before they begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.chassis.parsers import executable, text
from services.chassis.settings import SettingsError, load, var
from services.cli.problems import Problem

# Marks the stores of every `up`, unless the environment says otherwise.
ENVIRONMENT: Final = "embedded"


@dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    """A bad value is refused before a directory is marked with it."""

    environment: str = var(
        "TOWNKEEPER_ENVIRONMENT",
        text,
        default=ENVIRONMENT,
        help="the name that the stores are marked with",
        example="production",
    )
    exec_programs: str = var(
        "TOWNKEEPER_EXEC",
        text,
        default="any",
        help="the programs that agents of the exec runtime may be",
        example="any",
    )
    kilo: Path | None = var(
        "TOWNKEEPER_KILO_BIN",
        executable,
        default=None,
        help="the kilo executable",
    )


def embedded_settings(environ: Mapping[str, str]) -> EmbeddedSettings:
    """The settings, or a Problem that names every bad variable."""
    try:
        return load(EmbeddedSettings, environ)
    except SettingsError as error:
        raise Problem(str(error).replace("\n  ", "; ")) from error

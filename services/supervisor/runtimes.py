"""The runtimes that this supervisor can run agents on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from services.chassis.programs import require_program
from services.supervisor.exec_runtime import ExecRuntime
from services.supervisor.kilo.adapter import KiloRuntime
from services.supervisor.runtime import Runtime
from services.supervisor.settings import Settings


def make_runtimes(settings: Settings) -> Mapping[str, Runtime]:
    """By the name that a start request gives. A program is looked for at each start,
    so one that is installed meanwhile is found."""

    def kilo() -> Path:
        return settings.kilo or find()

    find = partial(require_program, "kilo", os.environ)
    runtimes: tuple[Runtime, ...] = (
        KiloRuntime(kilo),
        ExecRuntime(settings.exec_policy),
    )
    return {runtime.name: runtime for runtime in runtimes}

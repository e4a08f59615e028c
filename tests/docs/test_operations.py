"""docs/operations.md: every variable that a process reads, and no other."""

import re
from dataclasses import fields, is_dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

from services.chassis.redis_url import sentinel_url
from services.chassis.settings import Variable, variables
from services.cli.connection import _CONNECTION
from services.cli.problems import Exit
from services.cli.settings import EmbeddedSettings
from tests.support.documents import ROOT

pytestmark = pytest.mark.docs

TEXT = (ROOT / "docs" / "operations.md").read_text("utf-8")
SERVICES = ("registry", "snapshots", "supervisor", "gateway")
ROW = re.compile(r"^\| `([A-Z0-9_]+)` \| ([a-z, ]+) \| (.+?) \| (.+) \|$", re.MULTILINE)


def settings_of(module: ModuleType) -> type[Any]:
    """The dataclass that the module itself defines with variables in it."""
    [found] = [
        one
        for one in vars(module).values()
        if is_dataclass(one)
        and isinstance(one, type)
        and one.__module__ == module.__name__
        and fields(one)
    ]
    return found


def shown(variable: Variable) -> str:
    """A default as the document writes it."""
    if variable.required:
        return "needed"
    if isinstance(variable.default, float):
        return f"`{variable.default:g}s`"
    if isinstance(variable.default, str | int) and variable.default != "":
        return f"`{variable.default}`"
    return "–"


def expected_rows() -> dict[str, tuple[str, str]]:
    """Variable → who reads it, and its default (by service where they differ)."""
    by_name: dict[str, dict[str, str]] = {}
    for service in SERVICES:
        module = import_module(f"services.{service}.settings")
        for variable in variables(settings_of(module)):
            by_name.setdefault(variable.name, {})[service] = shown(variable)
    return {
        name: (", ".join(found), _defaults(found)) for name, found in by_name.items()
    }


def _defaults(by_service: dict[str, str]) -> str:
    if len(set(by_service.values())) == 1:
        return next(iter(by_service.values()))
    return "; ".join(f"{service}: {text}" for service, text in by_service.items())


def test_the_table_is_what_the_services_read() -> None:
    """Each variable has a row that names its readers and its default, as they are."""
    documented = {
        name: (readers, default) for name, readers, default, _ in ROW.findall(TEXT)
    }

    assert dict(sorted(expected_rows().items())) == dict(sorted(documented.items()))


def test_every_row_says_what_it_means() -> None:
    """A row without a meaning helps nobody."""
    assert [] == [name for name, _, _, means in ROW.findall(TEXT) if len(means) < 10]


def test_the_command_lines_own_variables_are_there() -> None:
    """What an option can be set by is documented with the others."""
    options = [one.annotation.__metadata__[0] for one in _CONNECTION]
    named = {option.envvar for option in options if option.envvar}
    named |= {variable.name for variable in variables(EmbeddedSettings)}

    assert set() == {name for name in named if f"`{name}`" not in TEXT}


def test_every_exit_code_is_there() -> None:
    """Scripts are written against the table of exit codes."""
    assert [] == [code for code in Exit if f"| {code.value} |" not in TEXT]


def test_the_example_of_sentinels_is_one() -> None:
    """What a reader copies is taken, and means what the text says."""
    [given] = re.findall(r"TOWNKEEPER_REDIS_URL=(redis\+sentinel:\S+)", TEXT)

    found = sentinel_url(given)

    assert ("mymaster", 0, 3) == (found.service, found.db, len(found.sentinels))

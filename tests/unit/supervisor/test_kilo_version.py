"""The version of a Kilo executable: free where npm installed it, asked elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.supervisor.kilo.version import find_version

SAID = "1.2.3"


def install(folder: Path, package: str | None, script: str = f"echo {SAID}") -> Path:
    """An executable as npm leaves one, with or without its package.json."""
    program = folder / "bin" / "kilo"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    if package is not None:
        (folder / "package.json").write_text(package)
    return program


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("@kilocode/cli", id="the wrapper"),
        pytest.param("@kilocode/cli-linux-x64", id="one platform"),
    ],
)
async def test_the_package_tells_without_a_start(tmp_path: Path, name: str):
    """A boot does not wait for a runtime that only says its version."""
    package = json.dumps({"name": name, "version": "7.7.9"})
    program = install(tmp_path / "package", package, "exit 1")

    assert "7.7.9" == await find_version(program)


async def test_the_package_is_found_through_a_link(tmp_path: Path):
    """What is found is a link to the version that was installed last."""
    package = json.dumps({"name": "@kilocode/cli-linux-x64", "version": "7.7.9"})
    link = tmp_path / "kilo"
    link.symlink_to(install(tmp_path / "package", package, "exit 1"))

    assert "7.7.9" == await find_version(link)


@pytest.mark.parametrize(
    "package",
    [
        pytest.param(None, id="none"),
        pytest.param("{", id="cut"),
        pytest.param("[]", id="a list"),
        pytest.param('{"name": "left-pad", "version": "9.9.9"}', id="another"),
        pytest.param('{"version": "9.9.9"}', id="no name"),
        pytest.param('{"name": "@kilocode/cli"}', id="no version"),
        pytest.param('{"name": "@kilocode/cli", "version": 7}', id="a number"),
    ],
)
async def test_without_a_package_of_kilo_it_is_asked(
    tmp_path: Path, package: str | None
):
    """A file that happens to lie there is not believed."""
    assert SAID == await find_version(install(tmp_path / "own", package))


async def test_an_executable_outside_a_bin_folder_is_asked(tmp_path: Path):
    """The package.json of some folder above says nothing about it."""
    package = json.dumps({"name": "@kilocode/cli", "version": "9.9.9"})
    program = install(tmp_path / "own", package)
    moved = tmp_path / "own" / "elsewhere"
    program.parent.rename(moved)

    assert SAID == await find_version(moved / "kilo")


async def test_one_that_says_nothing_fails_the_start(tmp_path: Path):
    """With what it complained about."""
    program = install(tmp_path / "own", None, "echo broken >&2; exit 3")

    with pytest.raises(ServiceError, match="broken") as caught:
        await find_version(program)
    assert Reason.START_FAILED is caught.value.reason

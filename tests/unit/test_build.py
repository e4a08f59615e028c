"""The package's own facts: floors, locks and stubs that have to agree."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROTOS = ROOT / "protos"
LOCKS = ("requirements.txt", "requirements-build.txt", "requirements-dev.txt")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def locked(name: str) -> dict[str, str]:
    """Each distribution of a lock file and its version."""
    text = (ROOT / name).read_text("utf-8")
    return dict(re.findall(r"(?m)^([a-z0-9._-]+)==([^\s;\\]+)", text))


def floor(name: str) -> str:
    """The oldest version of a run-time dependency that we say we work with."""
    wanted = {
        one.name: one for one in map(Requirement, project()["project"]["dependencies"])
    }
    (found,) = [s.version for s in wanted[name].specifier if s.operator == ">="]
    return found


def test_a_build_without_isolation_has_the_same_tools() -> None:
    """`pip wheel .` and `make setup` make the same stubs."""
    facts = project()

    assert (
        facts["build-system"]["requires"]
        == facts["project"]["optional-dependencies"]["build"]
    )


def test_no_older_grpcio_is_promised_than_the_stubs_import_with() -> None:
    """A stub refuses a grpcio older than the generator, and a protobuf likewise."""
    stubs = sorted(PROTOS.rglob("*_pb2.py"))
    made_for = set(
        re.findall(
            r"Protobuf Python Version: (\S+)",
            "".join(path.read_text("utf-8") for path in stubs),
        )
    )

    assert floor("grpcio") == locked("requirements-build.txt")["grpcio-tools"]
    assert {floor("protobuf")} == made_for


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_a_hash_for_everything(name: str) -> None:
    """Nothing is installed that is not the file somebody looked at."""
    entries = re.split(r"(?m)^(?=\S)", (ROOT / name).read_text("utf-8"))[1:]

    assert [] == [entry for entry in entries if "--hash=sha256:" not in entry]
    assert len(entries) == len(locked(name))


@pytest.mark.parametrize("name", LOCKS[1:])
def test_the_locks_agree(name: str) -> None:
    """What is tested is what ships."""
    shipped = locked("requirements.txt")

    assert shipped == {key: locked(name).get(key) for key in shipped}


def test_the_lock_holds_what_the_package_asks_for() -> None:
    """After an edit of pyproject.toml, `make lock` was not forgotten."""
    pins = locked("requirements.txt")
    missed = [
        str(wanted)
        for wanted in map(Requirement, project()["project"]["dependencies"])
        if wanted.name not in pins or pins[wanted.name] not in wanted.specifier
    ]

    assert [] == missed


def test_the_stubs_are_those_of_the_protos(tmp_path: Path) -> None:
    """Stubs are not committed: old ones lie about, until `make protos`."""
    sources = sorted(
        path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto")
    )
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}"]
    subprocess.run([*command, f"--python_out={tmp_path}", *sources], check=True)

    made = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*_pb2.py")}
    stale = [
        str(name)
        for name, path in made.items()
        if not (PROTOS / name).is_file()
        or (PROTOS / name).read_bytes() != path.read_bytes()
    ]

    assert len(sources) == len(made)
    assert [] == stale

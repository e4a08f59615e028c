"""Builds the gRPC stubs from protos/ before setuptools collects the packages.

Everything else about the package stands in pyproject.toml. The stubs are written
beside their .proto files and never committed: `python setup.py protos` (which is
`make protos`) writes them again after an edit.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

from setuptools import Command, setup
from setuptools.command.build import build

PROTOS = Path(__file__).parent.resolve() / "protos"


def compile_protos(root: Path = PROTOS) -> list[Path]:
    """Writes the stubs of every .proto below `root`, and drops those of no .proto.

    They are made in a folder aside and moved into place one by one, so that whoever
    imports them meanwhile reads the old or the new ones, never half a file.
    """
    sources = sorted(str(path) for path in root.rglob("*.proto"))
    with tempfile.TemporaryDirectory(prefix="stubs-", dir=root.parent) as folder:
        if sources:
            run_protoc(root, Path(folder), sources)
        made = {path.relative_to(folder) for path in Path(folder).rglob("*_pb2*")}
        for path in made:
            (Path(folder) / path).replace(root / path)
    for stale in set(root.rglob("*_pb2*.py*")) - {root / path for path in made}:
        if "__pycache__" not in stale.parts:
            stale.unlink()
    return sorted(made)


def run_protoc(root: Path, target: Path, sources: list[str]) -> None:
    """Calls the protoc of grpcio-tools, and stops the build when it finds a mistake."""
    # Not at the top: `pip` may ask this file for its requirements without them.
    from grpc_tools import protoc

    well_known = Path(protoc.__file__).parent / "_proto"
    # The plugins lie beside the interpreter, also when its venv is not activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    plugins = [
        f"--plugin={name}={shutil.which(name, path=path)}"
        for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
    ]
    outputs = [
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=quiet:{target}",
        f"--mypy_grpc_out=quiet:{target}",
    ]
    includes = [f"-I{root}", f"-I{well_known}"]
    status = protoc.main(["protoc", *includes, *plugins, *outputs, *sources])
    if status != 0:
        raise SystemExit("cannot compile protos/: correct what protoc names above")


class Protos(Command):
    """`python setup.py protos`, and the first step of every build."""

    description = "compile protos/ into stubs"
    user_options: ClassVar[list[tuple[str, str, str]]] = []
    editable_mode = False

    def initialize_options(self) -> None:
        """Setuptools asks for it; there are no options."""

    def finalize_options(self) -> None:
        """Setuptools asks for it; there are no options."""

    def run(self) -> None:
        """Compiles; a mistake in a .proto stops the build."""
        self.announce(f"compiled {len(compile_protos())} stubs", level=2)

    def get_outputs(self) -> list[str]:
        """None: build_py collects the stubs like any other module."""
        return []

    def get_output_mapping(self) -> dict[str, str]:
        """None, see `get_outputs`."""
        return {}

    def get_source_files(self) -> list[str]:
        """What a source distribution must hold for this step."""
        return sorted(
            str(path.relative_to(PROTOS.parent)) for path in PROTOS.rglob("*.proto")
        )


class Build(build):
    """The usual build, after the stubs are there to be collected."""

    sub_commands: ClassVar = [("protos", None), *build.sub_commands]


setup(cmdclass={"build": Build, "protos": Protos})

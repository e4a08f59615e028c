"""Installs the programs that agents run on, through npm, pinned and without scripts."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.chassis.programs import find_program, runtimes_root
from services.cli.problems import Problem

NPM_S: Final = 600.0
VERSION_S: Final = 60.0
ERROR_LENGTH_MAX: Final = 600
_ARCHITECTURES: Final = {"x86_64": "x64", "aarch64": "arm64"}

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Package:
    """A runtime as npm knows it: one package for each platform, no wrapper."""

    program: str
    prefix: str  # of the package names
    version: str


KILO: Final = Package("kilo", "@kilocode/cli", "7.7.9")
OPENCODE: Final = Package("opencode", "opencode", "1.18.33")
PACKAGES: Final = {package.program: package for package in (KILO, OPENCODE)}


def install_kilo(
    version: str = KILO.version,
    root: Path | None = None,
    progress: Progress = lambda text: None,
) -> Path:
    """The real Kilo executable, installed if it is not yet there."""
    return install(Package(KILO.program, KILO.prefix, version), root, progress)


def find_kilo(environ: Mapping[str, str]) -> Path | None:
    """The executable that TOWNKEEPER_KILO_BIN names, else the installed one."""
    return find_program(KILO.program, environ)


def install(
    package: Package, root: Path | None = None, progress: Progress = lambda text: None
) -> Path:
    """Installs one version of a runtime and makes it the one that is found.

    Whole or not at all: npm fills a folder of its own, which is renamed when the
    executable in it has told its version. Installing what is there does nothing.
    """
    root = root or runtimes_root(os.environ)
    name = f"{package.prefix}-{_platform()}"
    target = root / f"{package.program}-{package.version}"
    inside = Path("node_modules", name, "bin", package.program)
    with _alone(root):
        if (target / inside).is_file():
            progress(f"{package.program} {package.version} is installed")
        else:
            progress(f"installing {package.program} {package.version} through npm")
            _fill(target, inside, f"{name}@{package.version}", package.version)
            progress(f"installed {package.program} {package.version}")
        _link(root / package.program, Path(target.name) / inside)
    return target / inside


def _fill(target: Path, inside: Path, wanted: str, version: str) -> None:
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _npm_install(fresh, wanted)
        said = _ask_version(fresh / inside)
        if said != version:
            raise Problem(
                f"cannot install {wanted}: asked for its version, its executable says "
                f"{said or 'nothing'}; try another version"
            )
        if target.exists():  # half of an older install
            shutil.rmtree(target)
        fresh.chmod(0o755)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _npm_install(folder: Path, wanted: str) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise Problem(
            f"cannot install {wanted}: npm is not on PATH; install Node.js with npm, "
            "or name an executable that you have in TOWNKEEPER_KILO_BIN"
        )
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    command = [npm, "install", *options, "--prefix", str(folder), wanted]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=NPM_S,
        )
    except subprocess.TimeoutExpired as error:
        raise Problem(
            f"cannot install {wanted}: npm took over {NPM_S:.0f} s; check the network "
            "and try again"
        ) from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-ERROR_LENGTH_MAX:]
        raise Problem(
            f"cannot install {wanted}: npm failed; check that its registry is "
            f"reachable and serves this version. It said: {said}"
        )


def _ask_version(program: Path) -> str:
    try:
        with tempfile.TemporaryDirectory(prefix="townkeeper-") as folder:
            done = subprocess.run(
                [program, "--version"],
                env={"HOME": folder, "TMPDIR": folder, "PATH": os.defpath},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=VERSION_S,
            )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _platform() -> str:
    machine = _ARCHITECTURES.get(platform.machine())
    if platform.system() != "Linux" or machine is None:
        raise Problem(
            f"cannot install a runtime on {platform.system()} {platform.machine()}: "
            "only Linux on x86_64 and aarch64 is supported"
        )
    baseline = "-baseline" if machine == "x64" and not _has_avx2() else ""
    return f"linux-{machine}{baseline}"


def _has_avx2() -> bool:
    try:
        return "avx2" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


def _link(link: Path, target: Path) -> None:
    """Points the link at the target, never leaving none."""
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    os.replace(fresh, link)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """One install at a time; others wait for it and then find it done."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = os.open(root / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Problem(
            f"cannot install into {root}: {error.strerror}; give a folder that you may "
            "write to"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)

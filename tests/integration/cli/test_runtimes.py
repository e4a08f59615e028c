"""Installing a runtime: whole or not at all, once, and found afterwards."""

import os
import platform
import stat
from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.programs import find_program, require_program
from services.cli import runtimes
from services.cli.problems import Problem
from services.cli.runtimes import find_kilo, install, install_kilo

pytestmark = pytest.mark.integration

# Does what npm would, from what the test wrote beside it; notes that it was called.
NPM = """#!/bin/sh
echo "$@" >> "{folder}/calls"
[ -e "{folder}/fails" ] && {{ echo "no such version" >&2; exit 1; }}
while [ "$1" != --prefix ]; do shift; done
bin="$2/node_modules/${{3%@*}}/bin"
mkdir -p "$bin" && cp "{folder}/kilo" "$bin/kilo" && chmod +x "$bin/kilo"
"""


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """A folder in which to say what npm does; its program tells version 7.7.9."""
    folder = tmp_path / "npm"
    folder.mkdir()
    _program(folder / "npm", NPM.format(folder=folder))
    _program(folder / "kilo", "#!/bin/sh\necho 7.7.9\n")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def root(tmp_path):
    return tmp_path / "runtimes"


def _program(path, text):
    path.write_text(text)
    path.chmod(0o755)


def test_an_installed_runtime_is_found(npm, root, tmp_path, monkeypatch):
    """Where the user's home says, or where the setting does."""
    monkeypatch.setenv("HOME", str(tmp_path))

    installed = install_kilo()

    assert installed == find_kilo(os.environ)
    assert installed == require_program("kilo", {"HOME": str(tmp_path)})
    assert Path("/bin/sh").resolve() == find_program(
        "kilo", {"HOME": str(tmp_path), "TOWNKEEPER_KILO_BIN": "/bin/sh"}
    )


def test_only_the_platform_package_is_asked_for(npm, root):
    """Pinned, without install scripts: the wrapper's would fetch what it likes."""
    install_kilo(root=root)

    called = (npm / "calls").read_text()
    assert called.startswith("install --ignore-scripts --no-audit --no-fund ")
    assert called.rstrip().endswith("@7.7.9")
    assert "@kilocode/cli-linux-" in called


def test_a_second_install_does_nothing(npm, root):
    """Idempotent: npm is not even started."""
    told: list[str] = []
    first = install_kilo(root=root)
    second = install_kilo(root=root, progress=told.append)

    assert first == second
    assert 1 == len((npm / "calls").read_text().splitlines())
    assert ["kilo 7.7.9 is installed"] == told


def test_progress_is_told(npm, root):
    """Long work says what it does."""
    told: list[str] = []

    install_kilo(root=root, progress=told.append)

    assert ["installing kilo 7.7.9 through npm", "installed kilo 7.7.9"] == told


def test_a_newer_version_takes_the_place(npm, root):
    """The older one stays on disk: an agent may run on it."""
    install_kilo(root=root)
    _program(npm / "kilo", "#!/bin/sh\necho 8.0.0\n")

    install_kilo("8.0.0", root=root)

    assert (root / "kilo-7.7.9").is_dir()
    assert "kilo-8.0.0" in str((root / "kilo").resolve())


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        pytest.param(
            lambda npm: (npm / "fails").touch(), "no such version", id="npm fails"
        ),
        pytest.param(
            lambda npm: _program(npm / "kilo", "#!/bin/sh\necho 7.7.8\n"),
            "its executable says 7.7.8",
            id="another version",
        ),
        pytest.param(
            lambda npm: (npm / "kilo").write_bytes(b"\x7fELF but not really"),
            "its executable says nothing",
            id="not a program",
        ),
    ],
)
def test_a_failed_install_leaves_nothing(npm, root, spoil, says):
    """No half of it is ever found, and the next try can succeed."""
    spoil(npm)

    with pytest.raises(Problem) as failed:
        install_kilo(root=root)

    assert says in str(failed.value)
    assert str(failed.value).startswith("cannot install ")
    assert [".lock"] == [entry.name for entry in root.iterdir()]


def test_without_npm_it_says_so(root, monkeypatch):
    """And what to do instead."""
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(Problem) as failed:
        install_kilo(root=root)

    assert "npm is not on PATH" in str(failed.value)


def test_another_platform_is_refused(root, monkeypatch):
    """Before anything is fetched."""
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")

    with pytest.raises(Problem) as failed:
        install(runtimes.KILO, root)

    assert "riscv64" in str(failed.value)


def test_an_old_processor_gets_the_baseline_package(npm, root, monkeypatch):
    """The usual one would die of an illegal instruction."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(runtimes, "_has_avx2", lambda: False)

    assert "cli-linux-x64-baseline" in str(install_kilo(root=root))


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        pytest.param({}, "townkeeper runtime install kilo", id="not installed"),
        pytest.param(
            {"TOWNKEEPER_KILO_BIN": "/etc/passwd"}, "/etc/passwd", id="not executable"
        ),
        pytest.param(
            {"TOWNKEEPER_KILO_BIN": "/nowhere/kilo"}, "/nowhere/kilo", id="absent"
        ),
    ],
)
def test_what_is_missing_is_named_with_its_cure(tmp_path, environ, says):
    """A supervisor's start error must be enough to mend it."""
    with pytest.raises(ServiceError) as refused:
        require_program("kilo", {"HOME": str(tmp_path)} | environ)

    assert Reason.RUNTIME_MISSING is refused.value.reason
    assert says in refused.value.message


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    """A file stands where the folder should be."""
    (tmp_path / "file").touch()

    with pytest.raises(Problem) as failed:
        install_kilo(root=tmp_path / "file" / "runtimes")

    assert str(tmp_path / "file" / "runtimes") in str(failed.value)


def test_an_installed_runtime_can_be_read_by_all(npm, root):
    """Agents may run under users of their own."""
    install_kilo(root=root)

    assert stat.S_IMODE((root / "kilo-7.7.9").stat().st_mode) & 0o005 == 0o005

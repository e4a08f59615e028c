"""The rules of CONTRIBUTING that no linter knows, and proof that each can fail."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import house_rules

ROOT = Path(__file__).parents[2]
Rule = Callable[[str, str], Iterator[str]]

BOTH = ("services", "tests")
RULES = [
    pytest.param(house_rules.module_size, BOTH, id="module size"),
    pytest.param(house_rules.function_size, ("services",), id="function size"),
    pytest.param(house_rules.module_name, BOTH, id="module name"),
    pytest.param(house_rules.foreign_imports, ("services",), id="foreign import"),
    pytest.param(house_rules.proto_imports, ("services",), id="proto import"),
]


def modules(*folders: str) -> list[tuple[str, str]]:
    """Each module below the folders, generated ones left out: its path, its text."""
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return [
        (path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))
        for path in sorted(paths)
        if "_pb2" not in path.name
    ]


@pytest.mark.parametrize(("rule", "folders"), RULES)
def test_the_code_keeps_the_rule(rule: Rule, folders: tuple[str, ...]) -> None:
    """Every module keeps every house rule."""
    complaints = [
        complaint for path, text in modules(*folders) for complaint in rule(path, text)
    ]

    assert "" == "\n".join(complaints)


def test_nothing_committed_names_a_machine_or_a_registry() -> None:
    """A file in git holds nothing that is true on one machine only."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")

    complaints = [
        complaint
        for path in filter(None, listing.stdout.split("\0"))
        if (ROOT / path).is_file()
        for complaint in house_rules.forbidden_text(
            path, (ROOT / path).read_text("utf-8", errors="replace")
        )
    ]

    assert "" == "\n".join(complaints)


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        pytest.param(
            house_rules.module_size,
            "services/registry/agents.py",
            "x = 1\n" * 351,
            id="a service's module too long",
        ),
        pytest.param(
            house_rules.module_size,
            "tests/unit/test_agents.py",
            "x = 1\n" * 401,
            id="a test module too long",
        ),
        pytest.param(
            house_rules.function_size,
            "services/registry/agents.py",
            "async def f():\n" + "    x = 1\n" * 61,
            id="a function too long",
        ),
        pytest.param(
            house_rules.module_name, "services/chassis/utils.py", "", id="a drawer"
        ),
        pytest.param(
            house_rules.module_name,
            "services/cli/helpers/text.py",
            "",
            id="a drawer that is a package",
        ),
        pytest.param(
            house_rules.foreign_imports,
            "services/gateway/app.py",
            "from services.registry.leases import Lease\n",
            id="a service imports another",
        ),
        pytest.param(
            house_rules.foreign_imports,
            "services/gateway/app.py",
            "def late():\n    from services import registry\n",
            id="a service imports another inside a function",
        ),
        pytest.param(
            house_rules.foreign_imports,
            "services/gateway/app.py",
            "from ..registry import leases\n",
            id="a service imports another relatively",
        ),
        pytest.param(
            house_rules.foreign_imports,
            "services/chassis/auth.py",
            "import services.segments.codec\n",
            id="the chassis imports a library that stands on it",
        ),
        pytest.param(
            house_rules.foreign_imports,
            "services/chassis/clock.py",
            "from tests.support.clock import ManualClock\n",
            id="what ships imports a test",
        ),
        pytest.param(
            house_rules.proto_imports,
            "services/registry/leases.py",
            "from townkeeper.registry.v1 import registry_pb2\n",
            id="a rules module sees messages",
        ),
        pytest.param(
            house_rules.proto_imports,
            "services/snapshots/store.py",
            "from google.protobuf import timestamp_pb2\n",
            id="a store sees a well-known message",
        ),
        pytest.param(
            house_rules.forbidden_text,
            "docs/operations.md",
            "cd /wor" + "k/main\n",
            id="a developer's folder",
        ),
        pytest.param(
            house_rules.forbidden_text,
            "requirements.txt",
            "--extra-index-" + "url https://example.org/simple\n",
            id="an index address",
        ),
        pytest.param(
            house_rules.forbidden_text,
            "README.md",
            "https://pyp" + "i.org/project/x\n",
            id="a registry's host",
        ),
    ],
)
def test_the_rule_can_fail(rule: Rule, path: str, text: str) -> None:
    """A rule that finds nothing in a bad snippet would find nothing anywhere."""
    assert 1 == len(list(rule(path, text)))


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        pytest.param(
            house_rules.module_size,
            "services/registry/agents.py",
            "x = 1\n" * 350,
            id="a module at the limit",
        ),
        pytest.param(
            house_rules.function_size,
            "services/cli/agents.py",
            'def f(\n    x: int,\n):\n    """Help."""\n' + "    x = 1\n" * 60,
            id="a function at the limit",
        ),
        pytest.param(
            house_rules.foreign_imports,
            "services/registry/servicer.py",
            "from services.chassis import auth\nfrom . import agents\n",
            id="own and shared packages",
        ),
        pytest.param(
            house_rules.proto_imports,
            "services/supervisor/snapshots_client.py",
            "from townkeeper.snapshots.v1 import snapshots_pb2\n",
            id="a client",
        ),
        pytest.param(
            house_rules.proto_imports,
            "services/registry/servicer.py",
            "from townkeeper.registry.v1 import registry_pb2_grpc\n",
            id="a servicer",
        ),
        pytest.param(
            house_rules.forbidden_text,
            "deploy/Dockerfile",
            "ENV HOME=/home/townkeeper\nCOPY . /var/lib/network/files\n",
            id="a path in the image",
        ),
    ],
)
def test_the_rule_lets_good_code_pass(rule: Rule, path: str, text: str) -> None:
    """A rule that cries at good code would be switched off."""
    assert [] == list(rule(path, text))


def test_the_rules_see_the_whole_project() -> None:
    """Rules over an empty list of modules would always hold."""
    seen = {Path(path).parts[1] for path, _ in modules("services")}

    assert {"chassis", "registry", "snapshots", "supervisor", "gateway"} < seen

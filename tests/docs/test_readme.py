"""README and its siblings: every command in them exists, every file they name too."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from services.cli.main import app
from tests.support.documents import README, ROOT, blocks
from townkeeper.registry.v1 import registry_pb2
from townkeeper.snapshots.v1 import snapshots_pb2
from townkeeper.supervisor.v1 import supervisor_pb2

pytestmark = pytest.mark.docs

DOCUMENTS = [
    pytest.param(ROOT / name, id=name)
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "docs/operations.md",
        "docs/grpcurl.md",
        "docs/errors.md",
        "docs/leases.md",
        "docs/proof.md",
        "docs/rules.md",
        "docs/differences.md",
        "docs/security.md",
        "docs/snapshots.md",
    )
]
COMMANDS = typer.main.get_command(app)
_FILE = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.(?:md|py|proto|json))`")
_PATH = re.compile(r"`((?:tests|docs|services|protos|deploy|examples)/[\w./-]+)`")
# Made at run time, in a data directory.
_NOT_OURS = {"plane/endpoints.json", "endpoints.json", "servicer.py"}


def words_after(document: Path, program: str) -> list[list[str]]:
    """Each use of a program in a document's code: the words up to the end of it."""
    found = []
    inline = re.findall(r"`([^`\n]+)`", document.read_text("utf-8"))
    for text in [
        *(one.text for one in blocks(document) if one.language == "sh"),
        *inline,
    ]:
        for use in re.findall(rf"(?<![\w./-]){program} ([^\n]*)", text):
            cut = re.split(r"[|;)]|&&| -- |…", use)[0]
            found.append([word for word in shlex.split(cut.replace("'", "")) if word])
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist(document: Path) -> None:
    """What a document tells to make can be made."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    asked = {words[0] for words in words_after(document, "make")}

    assert set() == asked - targets


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_their_options_exist(document: Path) -> None:
    """What a document tells to type is a command with those options."""
    wrong = [
        " ".join(words)
        for words in words_after(document, "townkeeper")
        if not understood(words)
    ]

    assert [] == wrong


def understood(words: list[str]) -> bool:
    """Whether the words lead to a command that takes all the options in them."""
    command, known = COMMANDS, {"--help"}
    rest = list(words)
    while rest and (inner := getattr(command, "commands", {}).get(rest[0])):
        command = inner
        rest.pop(0)
    if command is COMMANDS and rest and not rest[0].startswith("-"):
        return False
    known |= {name for one in command.params for name in one.opts + one.secondary_opts}
    return {word.split("=")[0] for word in rest if word.startswith("--")} <= known


def test_the_readme_lists_every_command() -> None:
    """A command that the README does not know cannot be found."""
    text = README.read_text("utf-8")
    names = getattr(COMMANDS, "commands", {})

    assert {"up", "demo", "serve"} < set(names)
    for name, command in names.items():
        row = re.search(rf"^\| `townkeeper {name}` \| (.*) \|$", text, re.M)
        assert row, name
        missing = [
            one for one in getattr(command, "commands", {}) if f"`{one}" not in row[1]
        ]
        assert [] == missing


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_exist(document: Path) -> None:
    """A reader who follows a path finds something."""
    text = document.read_text("utf-8")
    named = {*_FILE.findall(text), *_PATH.findall(text)} - _NOT_OURS

    assert set() == {name for name in named if not (ROOT / name).exists()}


def test_every_call_has_its_command_on_the_grpcurl_page() -> None:
    """Nothing that a service answers is missing from the page."""
    text = (ROOT / "docs" / "grpcurl.md").read_text("utf-8")
    methods = {
        method.name
        for file in (registry_pb2, snapshots_pb2, supervisor_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }

    assert set() == {one for one in methods if not re.search(rf"\b{one}\b", text)}


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["nonsense"], id="no such command"),
        pytest.param(["agents", "start", "--nonsense"], id="no such option"),
        pytest.param(["up", "--force"], id="an option of others"),
    ],
)
def test_a_command_that_does_not_exist_is_noticed(words: list[str]) -> None:
    """The check would see it if a command was renamed."""
    assert not understood(words)

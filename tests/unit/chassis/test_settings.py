"""Settings: every bad variable at once, and never a secret in the complaint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from services.chassis import parsers
from services.chassis.redis_url import redis_url
from services.chassis.settings import (
    SettingsError,
    group,
    load,
    looks_like_placeholder,
    var,
    variables,
)


@dataclass(frozen=True, slots=True)
class Shared:
    level: int = var("TK_LEVEL", parsers.positive_int, default=1, help="the level")
    top: int = var("TK_TOP", parsers.positive_int, default=9, help="the top")

    def problems(self) -> list[str]:
        return ["TK_LEVEL and TK_TOP: too high"] if self.level > self.top else []


@dataclass(frozen=True, slots=True)
class Settings:
    town: str = var("TK_TOWN", parsers.town_id, help="the town")
    redis: str = var("TK_REDIS", redis_url, help="the Redis")
    patience_s: float = var(
        "TK_PATIENCE", parsers.duration, default=3.0, help="the patience"
    )
    shared: Shared = group(Shared)


GOOD = {"TK_TOWN": "t", "TK_REDIS": "redis://h"}


def complaint(**environ: str) -> str:
    with pytest.raises(SettingsError) as refused:
        load(Settings, environ)
    return str(refused.value)


class TestLoad:
    def test_reads_parses_and_defaults(self) -> None:
        """Given ones are parsed, the others have their defaults."""
        settings = load(Settings, {**GOOD, "TK_PATIENCE": "1m", "TK_LEVEL": "2"})

        assert settings == Settings(
            town="t", redis="redis://h", patience_s=60.0, shared=Shared(level=2)
        )

    def test_names_every_bad_variable_in_one_message(self) -> None:
        """An operator fixes a deployment in one round."""
        text = complaint(TK_REDIS="http://h", TK_PATIENCE="soon", TK_LEVEL="0")

        for name in ("TK_TOWN", "TK_REDIS", "TK_PATIENCE", "TK_LEVEL"):
            assert name in text
        assert "TK_TOP" not in text

    def test_says_what_is_wrong_and_shows_a_good_one(self) -> None:
        """Each line has the variable, the fault, the purpose, an example."""
        text = complaint(**{**GOOD, "TK_PATIENCE": "soon"})

        assert text.splitlines() == [
            "cannot start: set these variables right",
            "  TK_PATIENCE is not a duration in ms, s, m, h or d: "
            "give the patience, for example 30s",
        ]

    def test_rules_between_variables_count(self) -> None:
        """Two values that are fine alone and not together are a problem too."""
        assert "TK_LEVEL and TK_TOP: too high" in complaint(**GOOD, TK_LEVEL="10")

    def test_the_value_is_not_repeated(self) -> None:
        """A password in a malformed URL stays out of the log."""
        assert "hunter2" not in complaint(TK_REDIS="reddis://u:hunter2@h:6379")
        assert "hunter2" not in complaint(TK_REDIS="redis://u:hunter2@h:port")

    @pytest.mark.parametrize("text", ["", "   ", "\t"])
    def test_an_empty_one_is_a_fault(self, text: str) -> None:
        """Empty is a template that lost its value, even where there is a default."""
        assert "TK_PATIENCE is empty" in complaint(**GOOD, TK_PATIENCE=text)

    @pytest.mark.parametrize("text", ["<host>", "changeme"])
    def test_a_placeholder_is_a_fault(self, text: str) -> None:
        """A copied example is told from a real value, and refused."""
        assert "TK_TOWN still holds a placeholder" in complaint(
            TK_TOWN=text, TK_REDIS="redis://h"
        )

    def test_lists_its_variables(self) -> None:
        """Documentation can be compared with what is read, groups included."""
        assert [variable.name for variable in variables(Settings)] == [
            "TK_TOWN",
            "TK_REDIS",
            "TK_PATIENCE",
            "TK_LEVEL",
            "TK_TOP",
        ]
        assert [variable.required for variable in variables(Settings)] == [
            True,
            True,
            False,
            False,
            False,
        ]


@pytest.mark.parametrize(
    "text",
    [
        "<host>",
        "redis://<host>:6379",
        "changeme",
        "change-me",
        "CHANGE_ME",
        "placeholder",
        "PLACEHOLDER",
        "TODO",
        "to-do",
        "FIXME",
        "xxx",
        "XXXXXXXX",
        "your-bucket",
        "s3://your-bucket/x",
        "s3://placeholder/prefix",
        "redis://user:changeme@h",
        "${REDIS_URL}",
        "$(REDIS_URL)",
    ],
)
def test_placeholders(text: str) -> None:
    """What examples and templates leave behind."""
    assert looks_like_placeholder(text)


@pytest.mark.parametrize(
    "text",
    [
        "/home/todo/data",
        "file:///srv/todo",
        "todo-town",
        "redis://cache:6379/0",
        "xx",
        "s3://exchange/placeholder",
        "a<b",
    ],
)
def test_no_placeholders(text: str) -> None:
    """Real values that look a little like one."""
    assert not looks_like_placeholder(text)


PARSED = [
    (parsers.address, "registry:50051", "registry:50051"),
    (parsers.address, "[::1]:50051", "[::1]:50051"),
    (parsers.listen_address, "127.0.0.1:0", "127.0.0.1:0"),
    (parsers.port, "8080", 8080),
    (parsers.positive_int, "1", 1),
    (parsers.natural_int, "0", 0),
    (parsers.duration, "500ms", 0.5),
    (parsers.duration, "1h30m", 5400.0),
    (parsers.duration, "1.5s", 1.5),
    (parsers.boolean, "TRUE", True),
    (parsers.boolean, "off", False),
    (parsers.uids, "2001,2003-2005", (2001, 2003, 2004, 2005)),
    (parsers.town_id, "town-1", "town-1"),
    (parsers.http_url, "https://h/x", "https://h/x"),
    (parsers.one_of("a", "b"), "b", "b"),
    (parsers.text, "any thing", "any thing"),
]
REFUSED = [
    (parsers.address, "registry"),
    (parsers.address, "registry:0"),
    (parsers.address, "registry:65536"),
    (parsers.address, "registry:-1"),
    (parsers.address, ":50051"),
    (parsers.address, "a b:1"),
    (parsers.address, "http://h:1"),
    (parsers.listen_address, "127.0.0.1"),
    (parsers.port, "65536"),
    (parsers.positive_int, "0"),
    (parsers.positive_int, "1.5"),
    (parsers.positive_int, "1_000"),
    (parsers.positive_int, "\u0661"),
    (parsers.natural_int, "-1"),
    (parsers.natural_int, "9" * 25),
    (parsers.duration, "10"),
    (parsers.duration, "0s"),
    (parsers.duration, "-1s"),
    (parsers.duration, "1 s"),
    (parsers.duration, "99999d"),
    (parsers.boolean, "maybe"),
    (parsers.uids, "0"),
    (parsers.uids, "5-3"),
    (parsers.uids, "7,7"),
    (parsers.uids, "1-100000"),
    (parsers.uids, "root"),
    (parsers.town_id, "../etc"),
    (parsers.http_url, "ftp://h"),
    (parsers.http_url, "https://"),
    (parsers.blob_url, "file://relative/x"),
    (parsers.blob_url, "file:///"),
    (parsers.blob_url, "/var/x"),
    (parsers.blob_url, "s3://"),
    (parsers.blob_url, "s3://Upper/x"),
    (parsers.blob_url, "s3://b/x?region=1"),
    (parsers.one_of("a", "b"), "c"),
    (parsers.text, "a\nb"),
    (parsers.existing_file, "/nowhere/at/all"),
    (parsers.executable, "/etc"),
]


@pytest.mark.parametrize(("parse", "text", "value"), PARSED)
def test_parsers_accept(parse: object, text: str, value: object) -> None:
    """Good values, read."""
    assert callable(parse)
    assert parse(text) == value


@pytest.mark.parametrize(("parse", "text"), REFUSED)
def test_parsers_refuse(parse: object, text: str) -> None:
    """Bad values raise what `load` reports, and nothing else."""

    @dataclass(frozen=True, slots=True)
    class One:
        value: object = var("TK_ONE", parse, help="a value")  # type: ignore[arg-type]

    with pytest.raises(SettingsError, match="TK_ONE"):
        load(One, {"TK_ONE": text})


class TestPaths:
    def test_a_directory_may_be_missing(self, tmp_path: Path) -> None:
        """We make it, as long as we may."""
        assert parsers.directory(f"{tmp_path}/a/b") == tmp_path / "a" / "b"

    def test_a_relative_directory_is_made_absolute(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing depends on where the process stands later."""
        monkeypatch.chdir(tmp_path)

        assert parsers.directory("data") == tmp_path / "data"

    def test_a_file_is_no_directory(self, tmp_path: Path) -> None:
        """A path through a file is refused, naming the file."""
        (tmp_path / "file").touch()

        with pytest.raises(ValueError, match="file to be a directory"):
            parsers.directory(f"{tmp_path}/file/below")

    def test_an_unwritable_directory_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Said at the start, not at the first write."""
        # Tests may run as root, who may write anywhere.
        monkeypatch.setattr("os.access", lambda path, mode: False)

        with pytest.raises(ValueError, match="to be writable"):
            parsers.directory(str(tmp_path))

    def test_blob_urls_come_apart(self, tmp_path: Path) -> None:
        """A folder is a path, a bucket has its prefix without slashes."""
        file = parsers.blob_url(f"file://{tmp_path}/blobs%20here")
        s3 = parsers.blob_url("s3://bucket/a/b/")

        assert file.root == tmp_path / "blobs here"
        assert (s3.root, s3.bucket, s3.prefix) == (None, "bucket", "a/b")

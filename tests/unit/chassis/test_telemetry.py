"""Logs: JSON lines that carry no secret and no payload."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from services.chassis.telemetry import REDACTED, Event, configure_logging, redact

TOKEN = "eyJhbGciOiJFZERTQSJ9.eyJ0b3duSWQiOiJ0In0.c2lnbmF0dXJl"


def redacted(**fields: Any) -> dict[str, Any]:
    return dict(redact(None, "info", fields))


class TestRedact:
    @pytest.mark.parametrize(
        "value",
        [
            pytest.param(TOKEN, id="bare"),
            pytest.param(f"a {TOKEN} in a sentence", id="in a sentence"),
            pytest.param(f"Bearer {TOKEN}", id="as a header"),
            pytest.param([f"x={TOKEN}"], id="in a list"),
            pytest.param({"inner": {"deep": TOKEN}}, id="in a mapping"),
            pytest.param(ValueError(f"bad: {TOKEN}"), id="in an exception"),
            pytest.param(TOKEN.rpartition(".")[0] + ".", id="unsigned"),
        ],
    )
    def test_tokens_wherever_they_stand(self, value: Any) -> None:
        """A JWT is cut out of any field, however deep."""
        line = str(redacted(field=value))

        assert "c2lnbmF0dXJl" not in line
        assert "eyJ0b3duSWQiOiJ0In0" not in line
        assert REDACTED in line

    @pytest.mark.parametrize(
        "name",
        ["authorization", "token", "githubToken", "api_key", "GIT_PASSWORD", "secret"],
    )
    def test_fields_that_are_called_so(self, name: str) -> None:
        """What is named a secret is one, whatever it looks like."""
        assert redacted(**{name: "plain"}) == {name: REDACTED}
        assert redacted(env={name: "plain"}) == {"env": {name: REDACTED}}
        assert redacted(**{name: ["plain"]}) == {name: [REDACTED]}

    def test_opaque_bearers(self) -> None:
        """A bearer need not be a JWT."""
        assert redacted(text="sent Bearer abc123 to it") == {
            "text": f"sent Bearer {REDACTED} to it"
        }

    def test_passwords_in_urls(self) -> None:
        """The rest of a URL stays readable."""
        assert redacted(url="redis://user:hunter2@cache:6379/0") == {
            "url": f"redis://{REDACTED}@cache:6379/0"
        }

    def test_tokens_in_urls(self) -> None:
        """A token in the place of the name; the name that ssh needs stays."""
        assert redacted(url="cloning https://T0KEN@host/r, ssh://git@host/r") == {
            "url": f"cloning https://{REDACTED}@host/r, ssh://git@host/r"
        }

    def test_bytes_are_counted(self) -> None:
        """Contents are never written, their size is."""
        assert redacted(data=b"x" * 7) == {"data": "[7 bytes]"}

    def test_what_is_harmless_stays(self) -> None:
        """Ids, numbers and times are what logs are for."""
        line = {"token_id": "abc", "epoch": 7, "seconds": 0.5, "ok": True, "none": None}

        assert redacted(**line) == line

    def test_bottomless_nesting_ends(self) -> None:
        """A structure that holds itself does not hang the log."""
        loop: list[Any] = []
        loop.append(loop)

        assert REDACTED in str(redacted(field=loop))


class TestConfigureLogging:
    @pytest.fixture(autouse=True)
    def restored(self) -> Iterator[None]:
        handlers, level = logging.root.handlers[:], logging.root.level
        yield
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)

    def test_one_json_object_for_each_line(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Event, service, level, time, context, fields: one line, on stderr."""
        configure_logging("registry")
        structlog.contextvars.bind_contextvars(request_id="r-1")

        structlog.get_logger().info(Event.CALL_ENDED, method="m\nn")

        output = capsys.readouterr()
        line = json.loads(output.err)
        assert line.pop("timestamp").endswith("Z")
        assert line == {
            "event": "call.ended",
            "service": "registry",
            "level": "info",
            "request_id": "r-1",
            "method": "m\nn",
        }
        assert (output.err.count("\n"), output.out) == (1, "")

    def test_tracebacks_carry_no_secret(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A token in an exception's text is cut out of its traceback."""
        configure_logging("registry")

        try:
            raise RuntimeError(f"could not use {TOKEN}")
        except RuntimeError:
            structlog.get_logger().exception(Event.CALL_CRASHED)

        line = json.loads(capsys.readouterr().err)
        assert "RuntimeError" in line["exception"]
        assert "c2lnbmF0dXJl" not in line["exception"]

    def test_libraries_speak_json_too(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What grpc or asyncio complain of is a line like all others."""
        configure_logging("registry")

        logging.getLogger("asyncio").error("Task %s failed with %s", "t", TOKEN)

        line = json.loads(capsys.readouterr().err)
        assert line["event"] == f"Task t failed with {REDACTED}"
        assert line["service"] == "registry"

    def test_the_level_holds(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What is below the level is not written."""
        configure_logging("registry", level="warning")

        structlog.get_logger().info(Event.CALL_ENDED)

        assert capsys.readouterr().err == ""


def test_events_are_subject_and_what_happened() -> None:
    """Names sort by subject and read alike."""
    for event in Event:
        assert event.value == event.value.lower()
        assert event.value.count(".") == 1
        assert event.name == event.value.replace(".", "_").upper()

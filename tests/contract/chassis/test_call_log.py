"""The one line that each call leaves in the log, for every shape of method."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from tests.support.shapes import SHAPES, about, ask, method
from tests.support.waiting import wait_until

each_shape = pytest.mark.parametrize("shape", SHAPES)


@each_shape
class TestLog:
    async def test_one_line_for_each_call(
        self, shape: str, channel: grpc.aio.Channel
    ) -> None:
        """Method, outcome, caller, time and bytes; nothing of what was said."""
        size = about().ByteSize()

        with capture_logs(processors=[merge_contextvars]) as lines:
            await ask(channel, shape, metadata=(("x-request-id", "chosen-1"),))
            line = await wait_until(lambda: _ended(lines))

        assert ["call.ended", "change.audited"] == [each["event"] for each in lines]
        assert line.pop("seconds") >= 0
        assert line == {
            "event": "call.ended",
            "log_level": "info",
            "request_id": "chosen-1",
            "method": method(shape),
            "code": "OK",
            "reason": "",
            "caller_kind": "container",
            "towns": ["town-1"],
            "received_bytes": size,
            "sent_bytes": size,
        }

    @pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a;b"])
    async def test_a_bad_request_id_is_replaced(
        self, shape: str, channel: grpc.aio.Channel, given: str
    ) -> None:
        """Whatever a caller calls its request, the log stays one clean line."""
        with capture_logs(processors=[merge_contextvars]) as lines:
            await ask(channel, shape, metadata=(("x-request-id", given),))
            line = await wait_until(lambda: _ended(lines))

        assert line["request_id"] != given
        assert len(line["request_id"]) == 32


def _ended(lines: list[Any]) -> Any:
    # Written after the answer has left, so a test has to wait for it.
    ended = [line for line in lines if line["event"] == "call.ended"]
    return ended[0] if ended else None

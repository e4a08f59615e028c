"""A stand-in for a language model: OpenAI chat completions on loopback, no thinking.

Its answers prove what it was shown (how many prompts, a digest of the earlier ones,
the first in words), so a restored session can be told from a fresh one. What a prompt
can ask of it stands in `stand_in_script`. `GET /calls` tells what it was shown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from types import TracebackType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from services.cli.stand_in_script import Call, Reply, decide, read_call

RECORDED_CALLS_MAX = 1000
HOLD_MAX_S = 120.0
START_S = 10.0
MODEL = "stand-in"


class StandInModel:
    """The server, in a thread of its own; `with StandInModel() as model: model.url`.

    Another `answer` than the script's gives it other words.
    """

    def __init__(self, port: int = 0, answer: Callable[[Call], Reply] = decide) -> None:
        self._answer = answer
        self._calls: deque[Call] = deque(maxlen=RECORDED_CALLS_MAX)
        self._released = asyncio.Event()
        self._holding = 0
        routes = [
            Route("/v1/chat/completions", self._complete, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/calls", self._recorded),
            Route("/release", self._release, methods=["POST"]),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes),
            host="127.0.0.1",
            port=port,
            log_level="error",
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="stand-in-model")

    @property
    def url(self) -> str:
        """The base address to give to a client: it ends in /v1."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def port(self) -> int:
        """The port that was bound."""
        return int(self._server.servers[0].sockets[0].getsockname()[1])

    @property
    def calls(self) -> list[Call]:
        """What was asked so far, title requests left out, oldest first."""
        return [call for call in list(self._calls) if not call.title]

    @property
    def holding(self) -> int:
        """How many answers stand still half-way now."""
        return self._holding

    def start(self) -> None:
        """Returns when it answers."""
        self._thread.start()
        deadline = time.monotonic() + START_S
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise OSError("cannot start the stand-in model: is its port in use?")
            self._thread.join(0.01)

    def stop(self) -> None:
        """Ends the server and joins its thread."""
        self._server.should_exit = True
        self._thread.join(START_S)

    def __enter__(self) -> StandInModel:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": MODEL}]})

    async def _recorded(self, request: Request) -> Response:
        return JSONResponse([asdict(call) for call in self.calls])

    async def _release(self, request: Request) -> Response:
        self._released.set()
        return JSONResponse({"released": self._holding})

    async def _complete(self, request: Request) -> Response:
        call = read_call(await request.json())
        self._calls.append(call)
        reply = self._answer(call)
        if reply.status != 200:
            error = {"error": {"message": "as you asked", "type": "stand_in"}}
            return JSONResponse(error, status_code=reply.status)
        if call.streamed:
            frames = self._frames(call, reply)
            return StreamingResponse(frames, media_type="text/event-stream")
        return JSONResponse(_whole(call, reply))

    async def _frames(self, call: Call, reply: Reply) -> AsyncIterator[bytes]:
        chunk = _chunk_of(call.model)
        yield chunk({"role": "assistant", "content": ""}, None)
        if reply.tool:
            yield chunk({"tool_calls": [_tool_call(call, reply)]}, None)
            yield chunk({}, "tool_calls")
        else:
            pieces = re.findall(r"\S+\s*", reply.text)
            for number, piece in enumerate(pieces):
                if reply.hold and number == len(pieces) // 2:
                    await self._hold()
                if reply.slowly_s:
                    await asyncio.sleep(reply.slowly_s / len(pieces))
                yield chunk({"content": piece}, None)
            yield chunk({}, "stop")
        yield b"data: [DONE]\n\n"

    async def _hold(self) -> None:
        self._released.clear()
        self._holding += 1
        try:
            async with asyncio.timeout(HOLD_MAX_S):
                await self._released.wait()
        finally:
            self._holding -= 1


def _tool_call(call: Call, reply: Reply) -> dict[str, Any]:
    number = f"{len(call.prompts)}_{len(call.tool_results)}"
    function = {"name": reply.tool, "arguments": json.dumps(reply.arguments)}
    return {
        "index": 0,
        "id": f"call_{number}",
        "type": "function",
        "function": function,
    }


def _chunk_of(model: str) -> Callable[[dict[str, Any], str | None], bytes]:
    created = int(time.time())

    def chunk(delta: dict[str, Any], finish: str | None) -> bytes:
        frame: dict[str, Any] = {
            "id": "chatcmpl-stand-in",
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }
        if finish:
            frame["usage"] = _USAGE
        return b"data: " + json.dumps(frame).encode() + b"\n\n"

    return chunk


def _whole(call: Call, reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.tool:
        message["tool_calls"] = [_tool_call(call, reply)]
    finish = "tool_calls" if reply.tool else "stop"
    return {
        "id": "chatcmpl-stand-in",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": call.model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": _USAGE,
    }


_USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


def main() -> None:
    """Serves until interrupted: python -m services.cli.stand_in_model --port 8099."""
    parser = argparse.ArgumentParser(description="A stand-in language model.")
    parser.add_argument("--port", type=int, default=0)
    with StandInModel(parser.parse_args().port) as model:
        sys.stdout.write(f"ready {model.url}\n")
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()

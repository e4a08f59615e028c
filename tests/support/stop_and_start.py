"""A stop, and a start in the same instant: what a hasty client does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.support.town import Town


def stop_and_start(
    town: Town, agent: str, start: Callable[[], httpx.Response]
) -> tuple[httpx.Response, httpx.Response, list[str]]:
    """Both calls, the second as soon as the first has begun; who ended when."""
    ended: list[str] = []
    lock = threading.Lock()

    def call(what: str, work: Callable[[], httpx.Response]) -> httpx.Response:
        reply = work()
        with lock:
            ended.append(what)
        return reply

    with ThreadPoolExecutor(2) as pool:
        stopping = pool.submit(call, "stop", lambda: town.stop(agent))
        town.wait_status(agent, "stopping")
        starting = pool.submit(call, "start", start)
        return stopping.result(120), starting.result(120), ended

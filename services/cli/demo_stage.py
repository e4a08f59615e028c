"""What the story needs to be told: Kilo, a model, a plane, and clients of it."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from services.chassis.access import Kind
from services.cli import runtimes
from services.cli.demo_client import TownClient
from services.cli.demo_story import Model, Outcome, Story
from services.cli.embedded import Embedded, running
from services.cli.layout import DataDir, Marking
from services.cli.narrator import Narrator
from services.cli.programs import Addresses
from services.cli.real_model import RealModel
from services.cli.settings import embedded_settings
from services.cli.stand_in_model import MODEL, StandInModel
from services.cli.tokens import mint_from

TOWN: Final = "demo"
TOKEN_TTL_S: Final = 3600.0
_FREE: Final = Addresses("127.0.0.1", 0, 0, 0, 0)


async def perform(data: DataDir, real: RealModel | None, tell: Narrator) -> Outcome:
    """Tells the story once; what came of it."""
    settings = embedded_settings(os.environ)
    tell.title("Townkeeper: kill the container; the agent does not notice.")
    async with AsyncExitStack() as stack:
        await _install(settings.kilo, tell)
        model = await stack.enter_async_context(_model(real))
        with tell.step("starting the plane") as progress:
            marking = Marking(TOWN, settings.environment)
            plane = running(data, marking, _FREE, progress)
            embedded = await stack.enter_async_context(plane)
            progress(f"the plane serves {embedded.endpoints.http}")
        client = _client(embedded)
        stack.push_async_callback(client.aclose)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="townkeeper-"))
        story = Story(embedded, client, model, tell)
        outcome = await story.run(Path(folder))
    return outcome


async def _install(given: Path | None, tell: Narrator) -> None:
    with tell.step("installing Kilo") as progress:
        if given is not None:
            progress(f"using {given}")
            return
        await asyncio.to_thread(runtimes.install_kilo, progress=progress)


@asynccontextmanager
async def _model(real: RealModel | None) -> AsyncIterator[Model]:
    if real is not None:
        yield Model(real.name, real.base_url, real.key, None)
        return
    # It starts and stops by waiting for its thread.
    stand_in = StandInModel()
    await asyncio.to_thread(stand_in.start)
    try:
        yield Model(f"stand-in/{MODEL}", stand_in.url, "none", stand_in)
    finally:
        await asyncio.to_thread(stand_in.stop)


def _client(embedded: Embedded) -> TownClient:
    data = embedded.data
    user = mint_from(data, Kind.USER, TOWN, ttl_s=TOKEN_TTL_S)
    operator = mint_from(data, Kind.OPERATOR, TOWN, ttl_s=TOKEN_TTL_S)
    return TownClient(embedded.endpoints, user, operator)

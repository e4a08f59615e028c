"""The supervisor's process: settings → neighbours → agents back → serve → leave."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from services.chassis.auth import Verifier
from services.chassis.clock import SystemClock
from services.chassis.errors import ServiceError
from services.chassis.key_sources import FetchedKeys
from services.chassis.keys import KeysError
from services.chassis.memory import keep_few_heaps
from services.chassis.metrics import serving_metrics
from services.chassis.revocations import RevocationList
from services.chassis.server import BindError, Server, run_until_signal
from services.chassis.settings import SettingsError, load
from services.chassis.tasks import ended
from services.chassis.telemetry import configure_logging
from services.supervisor import spawn
from services.supervisor.container_token import ContainerToken
from services.supervisor.drain import Drain
from services.supervisor.errand import report_failure
from services.supervisor.events import EventLog
from services.supervisor.freezer import Freezer
from services.supervisor.heartbeat import Heartbeat
from services.supervisor.hydrate import Hydrator
from services.supervisor.kept import KeeperLink
from services.supervisor.ledger import Ledger
from services.supervisor.metrics import shown
from services.supervisor.places import Places
from services.supervisor.policy import POLICY
from services.supervisor.registry_client import RegistryClient
from services.supervisor.roster import Roster
from services.supervisor.run import backoff_s
from services.supervisor.runtimes import make_runtimes
from services.supervisor.servicer import SupervisorServicer
from services.supervisor.settings import Settings
from services.supervisor.snapshots_client import SnapshotsClient
from services.supervisor.specs import Claim, Identity
from services.supervisor.surroundings import Surroundings
from services.supervisor.workspace import workspace_maker
from services.supervisor.workspace_save import WorkspaceSaver
from townkeeper.supervisor.v1 import supervisor_pb2, supervisor_pb2_grpc

log = structlog.get_logger()

SERVICE: Final = supervisor_pb2.DESCRIPTOR.services_by_name["SupervisorService"]


async def serve(settings: Settings) -> None:
    """One supervisor's life."""
    spawn.adopt_orphans()
    identity = Identity(settings.town, settings.instance, str(uuid.uuid4()))
    keeper = KeeperLink(os.environ)
    token = ContainerToken(settings.container_token, settings.town, keeper.tell_token)
    around = _surroundings(settings, identity, token)
    roster = Roster(around)
    known = RevocationList(followed=True)
    verifier = settings.trust.verifier(
        known, otherwise=FetchedKeys("the registry", around.registry.public_keys)
    )
    server = _server(settings, verifier)
    keeper.on_end(lambda: around.keep(_end_at_once(around)))
    tasks: list[asyncio.Task[None]] = []
    hearts: list[Heartbeat] = []

    async def announce() -> None:
        for heart in hearts:
            await heart.say_leaving()

    drain = Drain(roster, announce, WorkspaceSaver().save)
    servicer = SupervisorServicer(
        *(roster, drain, around, settings.exec_policy),
        refresh=partial(token.replace, verifier=verifier),
    )
    supervisor_pb2_grpc.add_SupervisorServiceServicer_to_server(servicer, server.grpc)

    async def join(port: int) -> None:
        keeper.tell_serving()
        address = f"{settings.address.rpartition(':')[0]}:{port}"
        capacity = settings.capacity
        register = partial(around.registry.register_instance, address, capacity)
        interval_s, claims = await _register(around, register)
        await _end_strangers(around, claims)
        freezer = Freezer(
            *(settings.town, around.ledger, around.events, around.may_start),
            tell_keeper=keeper.tell_good_until,
        )
        heart = Heartbeat(
            *(around, roster, register, interval_s, partial(_replaced, roster)),
            freezer=freezer if settings.freezes else None,
        )
        hearts.append(heart)
        for name, step in (
            ("heartbeat", heart.beat()),
            ("freezer", freezer.watch()),
            ("inbox watch", heart.watch_messages()),
            ("revocations", around.registry.follow_revocations(known)),
            ("boot", roster.boot(claims)),
        ):
            tasks.append(asyncio.create_task(step, name=name))
            tasks[-1].add_done_callback(partial(_end_if_failed, drain))

    async def leave() -> None:
        drain.begin(settings.drain_budget_s)
        await drain.ended()
        await ended(*tasks)
        await _sign_off(around)

    with serving_metrics(settings.metrics), shown(roster):
        await run_until_signal(server, on_stop=leave, on_start=join)


def _server(settings: Settings, verifier: Verifier) -> Server:
    server = Server(
        settings.address, POLICY, verifier, [SERVICE.full_name], tls=settings.tls
    )
    server.health.register("tokens", verifier.check_known)
    server.health.note("revocations", verifier.check_following)
    return server


async def _replaced(roster: Roster, why: str) -> None:
    # Whatever we still do is refused: end our agents, then ourselves, as a crash.
    log.error("instance.replaced", why=why)
    await roster.lost_all(why)
    os._exit(1)


async def _end_at_once(around: Surroundings) -> None:
    """Nobody keeps us: as a container whose first process has ended."""
    log.error("keeper.gone")
    around.leaving.set()
    try:
        names = around.ledger.agents(around.identity.town)
        await asyncio.gather(*map(around.ledger.end, names))
    finally:
        os._exit(1)


async def _sign_off(around: Surroundings) -> None:
    # What was left alive and not taken up yet, before others may have it.
    await _end_strangers(around, [])
    try:
        await around.registry.release_instance()
    except ServiceError as error:
        log.warning("instance.release_failed", error=error.message)
    await around.registry.close()
    await around.hydrator.snapshots.close()


def _surroundings(
    settings: Settings, identity: Identity, token: ContainerToken
) -> Surroundings:
    clock = SystemClock()
    ledger = Ledger(settings.data_dir / "ledger")
    runtimes = make_runtimes(settings)
    hydrator = Hydrator(
        snapshots=SnapshotsClient(settings.snapshots, token, identity, settings.tls),
        runtimes=runtimes,
        ledger=ledger,
        clock=clock,
        places=partial(Places.of, settings.data_dir),
        prepare_workspace=workspace_maker(settings.data_dir / "workspaces"),
    )
    return Surroundings(
        identity=identity,
        data_dir=settings.data_dir,
        clock=clock,
        events=EventLog(identity.boot_id, clock),
        ledger=ledger,
        registry=RegistryClient(settings.registry, token, identity, settings.tls),
        hydrator=hydrator,
        runtimes=runtimes,
    )


def _end_if_failed(drain: Drain, task: asyncio.Task[None]) -> None:
    """Without its heartbeat an instance is dead and does not know: better end, and be
    started again. At once: its leases are others' soon, whatever turns there are."""
    report_failure(task)
    if not task.cancelled() and task.exception() is not None:
        drain.begin(0.0)
        os.kill(os.getpid(), signal.SIGTERM)


async def _register(
    around: Surroundings, register: Callable[[], Awaitable[float]]
) -> tuple[float, list[Claim]]:
    """Takes the slot and what must run here; waits for a registry that is away."""
    failures = 0
    while True:
        try:
            interval_s = await register()
            return interval_s, await around.registry.claim_all()
        except ServiceError as error:
            if error.code.name in {"UNAUTHENTICATED", "PERMISSION_DENIED"}:
                raise SettingsError(
                    f"cannot join town {around.identity.town}: {error.message}; give"
                    " GASTOWN_CONTAINER_TOKEN a container token of that town"
                ) from error
            if error.code.name not in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}:
                raise
            failures += 1
            log.warning("instance.register_failed", error=error.message)
            await asyncio.sleep(backoff_s(failures))


async def _end_strangers(around: Surroundings, claims: list[Claim]) -> None:
    """Ends what a dead predecessor left of agents that are not ours any more."""
    ours = {claim.name for claim in claims}
    for name in around.ledger.agents(around.identity.town):
        if name not in ours:
            ended = await around.ledger.end(name)
            log.warning("leftovers.ended", agent=str(name), processes=ended)


@contextlib.contextmanager
def _alone_in(data_dir: Path) -> Iterator[None]:
    """Two supervisors in one folder would each end the other's agents."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (data_dir / "supervisor.lock").open("w")
    except OSError as error:
        raise SettingsError(
            f"cannot write to {data_dir} ({error.strerror}): give TOWNKEEPER_DATA_DIR"
            " another folder"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SettingsError(
                f"cannot start: another supervisor uses {data_dir}; give"
                " TOWNKEEPER_DATA_DIR a folder of its own"
            ) from None
        yield


def main() -> int:
    """Runs until SIGTERM; 0 after an orderly stop."""
    keep_few_heaps()
    configure_logging("supervisor")
    try:
        settings = load(Settings, os.environ)
        with _alone_in(settings.data_dir):
            asyncio.run(serve(settings))
    except (SettingsError, KeysError, BindError, ServiceError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except Exception:
        # A defect. Agents need not end for it: as one that is killed we are kept.
        log.exception("supervisor.crashed")
        signal.raise_signal(signal.SIGABRT)
    return 0


if __name__ == "__main__":
    sys.exit(main())

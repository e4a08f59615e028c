"""One agent in this container: start, stop, crash, restart, one step at a time.

Every public step takes the agent's lock, so a start waits for the stop before it and
for the save that belongs to it. Other agents are never waited for.
"""

from __future__ import annotations

import asyncio
import uuid
from functools import partial
from typing import Final

import structlog

from services.chassis.errors import Reason, ServiceError
from services.supervisor.ending import Ending
from services.supervisor.ledger import Entry
from services.supervisor.live import SAVE_AGAIN_S, LiveRun, last_save
from services.supervisor.output import OutputBuffer
from services.supervisor.redaction import hiding_secrets
from services.supervisor.run import (
    Crashes,
    Run,
    State,
    backoff_s,
    describe,
    no_run,
    not_running,
    start_failed,
)
from services.supervisor.runtime import ExitReport, Kept
from services.supervisor.saver import Saver
from services.supervisor.specs import Claim
from services.supervisor.workspace_save import Workspace

log = structlog.get_logger()

STOP_GRACE_S: Final = 10.0


class Agent(Ending):
    """Runs one agent."""

    async def start(self) -> Run:
        """Claims the agent and starts it, or returns the run that it already has."""
        async with self._lock:
            claim = await self._take()
            if self._runs(claim):
                assert self.run is not None
                return self.run
            await self._halt(STOP_GRACE_S, "", patient=True)
            self._models = None
            try:
                return await self._begin(claim, Crashes())
            except ServiceError:
                if self._lives_on():
                    self._errand.begin(self._restart(claim, Crashes()))
                    raise
                # Who asked has the answer, and asks again; nobody else tries meanwhile.
                await self._release("", wait_for_boot=True)
                raise

    async def resume(self, claim: Claim) -> None:
        """Starts an agent that was claimed unasked; tries again until it runs."""
        async with self._lock:
            if claim.epoch > self.taken and self._ending is None:
                await self._bring_back(claim)

    async def stop(self, grace_s: float, *, waits: bool = False) -> Run:
        """Ends the process, saves its last state, gives the lease back; also one that
        waits for its turn to be brought back.

        Raises SAVE_PENDING when the state cannot be saved in time: then the lease
        stays and the save goes on. Raises SERVICE_UNAVAILABLE when the registry
        does not hear of it.
        """
        async with self._lock:
            if self.run is None:
                raise no_run(self.name)
            await self._halt(grace_s, "stopped")
            ours = waits or self.run.state is not State.EXITED
            await self._save_rest("stopped", claims=ours and self._claim is None)
            await self._release("stopped")
            self._exited("stopped")
            await self._tell_end()
            return self.run

    async def leave_in_time(self, grace_s: float, cut: asyncio.Event | None) -> None:
        """As `leave`, but until `cut` is set a turn may end by itself, and a save that
        the store does not take is tried again."""
        while cut is not None and not cut.is_set():
            async with self._lock:  # whoever starts or restarts it is done
                live = self._live
            if live is not None:
                await live.finish(cut)
            try:
                await self.leave(grace_s)
                return
            except ServiceError as error:
                if error.reason is not Reason.SAVE_PENDING:
                    raise
            await asyncio.sleep(SAVE_AGAIN_S)
        await self.leave(grace_s)

    async def leave(self, grace_s: float) -> None:
        """As `stop`, for a supervisor that ends: the agent must run elsewhere."""
        async with self._lock:
            await self._halt(grace_s, "", patient=True)
            # Nobody shows a lease that is in doubt, and it must go on elsewhere.
            doubted = self.run is not None and self.run.state is State.BACKOFF
            claims = doubted and self._claim is None
            await self._save_rest("", claims=claims, patient=True)
            await self._release("")
            if self.run is not None:
                self._exited("evicted")

    async def lost(self, epoch: int, why: str) -> None:
        """The lease is another's: ends everything, saves nothing, keeps the file.

        A later lease, taken while this waited for its turn, is not meant.
        """
        async with self._lock:
            if self.epoch == epoch and self._claim is not None:
                await self._lose(why)

    async def save(self) -> Saver:
        """Everything committed before this call is durable when it returns."""
        saver = self._saver
        if saver is None:
            raise not_running(self.name)
        await saver.save()
        return saver

    async def set_model(self, model: str, small_model: str) -> Run:
        """Changes the model of the next turns."""
        async with self._lock:
            if self._live is None or self.run is None:
                raise not_running(self.name)
            await self._live.handle.set_model(model, small_model)
            self.run.model = model
            earlier = self._models[1] if self._models else ""
            self._models = model, small_model or earlier
            self._write_down(self._live)
            return self.run

    async def restore(self, number: int) -> tuple[int, int]:
        """Makes an older generation the newest; returns its new number and that of
        the state it replaced (0: there was none)."""
        async with self._lock:
            claim = await self._take()
            ran = self.alive or self._lives_on()
            if not ran:
                self._claim = claim
            hydrator = self._around.hydrator
            try:
                await hydrator.snapshots.get(self.name, number)  # before anything ends
                await self._halt(STOP_GRACE_S, "", patient=True)
                return await hydrator.restore(claim, number)
            finally:
                if not ran:
                    await self._release("stopped")
                elif self._live is None and self._saver is None:
                    await self._bring_back(claim)

    # Everything below runs under the lock.

    async def _bring_back(self, claim: Claim) -> None:
        """Starts the agent; tries again until it runs."""
        await self._errand.drop()
        try:
            await self._begin(claim, Crashes())
        except ServiceError:
            self._errand.begin(self._restart(claim, Crashes()))

    async def _begin(self, claim: Claim, crashes: Crashes) -> Run:
        """Starts a run, or goes on with one that a dead supervisor left alive; if that
        cannot be gone on with it is ended, and started anew."""
        living = None
        if not crashes.count:
            living = self._around.ledger.living(self.name, claim.spec.digest)
        if living is not None:
            self._models = living.models
            try:
                return await self._begin_run(claim, crashes, living)
            except ServiceError:
                if living.process.alive():
                    # It is not the one to blame: the next try may have it.
                    self._unsaved = True
                    raise
        return await self._begin_run(claim, crashes, None)

    async def _begin_run(
        self, claim: Claim, crashes: Crashes, living: Entry | None
    ) -> Run:
        around = self._around
        self._claim, self._ending, self.taken = claim, None, claim.epoch
        run_id = living.run if living else uuid.uuid4().hex
        began = living.started_at if living else around.clock.now()
        self.run = run = Run(self.name, run_id, claim.spec.role, claim.epoch, began)
        told = self._told(claim)
        run.model, run.crash_count = told.spec.model, crashes.count
        self.output.close()
        self.output = OutputBuffer()
        try:
            launch = self._launch(told, run, crashes, living)
            live = await hiding_secrets(launch, told.spec)
        except Exception as error:  # whatever it is, the next try must come
            self.failed_starts += 1
            run.error, run.exit_reason = str(error), "failed"
            run.move(State.FAILED)
            around.events.append(self.name.agent, "agent.failed", {"error": run.error})
            await self._close_saver()
            if isinstance(error, ServiceError):
                raise
            raise start_failed(self.name, error) from error
        self.failed_starts, self._unsaved = 0, False
        run.move(State.RUNNING)
        self._live = live
        self._errand.begin(self._watch(live, crashes))
        return run

    async def _launch(
        self, claim: Claim, run: Run, crashes: Crashes, living: Entry | None
    ) -> LiveRun:
        around = self._around
        around.refuse_to_start(self.name)
        runtime = around.runtime(claim.spec.runtime)
        hydrated = await around.hydrator.hydrate(
            claim, run.id, crashed=crashes.count > 0, living=living
        )
        saver = self._hold(hydrated.saver, claim.epoch)
        self.workspace = Workspace(hydrated.launch.workdir, claim.spec)
        run.workdir = str(hydrated.launch.workdir)
        run.generation, run.saved_at = saver.generation, saver.saved_at
        run.lost_generations = hydrated.lost
        run.error = hydrated.report
        run.move(State.STARTING)
        output, events, token = self.output, around.events, around.credential(run)
        live = LiveRun(run, saver, output, events, around.clock.now, token)
        around.refuse_to_start(self.name)
        kept = None
        if living is None:
            around.ledger.intend(self.name, run.id)
        else:
            around.ledger.thaw(self.name)
            kept = Kept(
                living.process, around.places(self.name).handover, living.resumed
            )
        prompt = claim.spec.prompt
        try:
            await live.start(runtime, hydrated.launch, around.registry, prompt, kept)
        except ServiceError:
            if kept is not None:
                await around.ledger.end(self.name)
            raise
        self._write_down(live)
        return live

    async def _watch(self, live: LiveRun, crashes: Crashes) -> None:
        report = await live.wait()
        async with self._lock:
            if self._live is live:
                self._errand.hand_over()
                await self._process_ended(live, report, crashes)

    async def _process_ended(
        self, live: LiveRun, report: ExitReport, crashes: Crashes
    ) -> None:
        run, claim = live.run, self._claim
        assert claim is not None
        await live.end()
        self._live = None
        run.move(State.SAVING)
        saved = await last_save(live.saver)
        around = self._around
        if report.completed and claim.spec.runtime == "exec":
            if not saved:
                self._save_then_release("completed")
                return
            await self._close_saver()
            await self._release("completed")
            self._exited("completed")
            return
        crashes.record(around.clock.monotonic())
        run.crash_count = crashes.count
        run.error = describe(report)
        live.emit("agent.crashed", error=run.error, crashes=crashes.count)
        if crashes.too_many:
            run.exit_reason = "failed"
            run.move(State.FAILED)
            if not saved:
                self._save_then_release("failed")
                return
        self._unsaved = not saved
        await self._close_saver()
        if crashes.too_many:
            await self._release("failed")
            return
        run.exit_reason = "crashed"
        run.move(State.BACKOFF)
        self._errand.begin(self._restart(claim, crashes))

    async def _restart(self, claim: Claim, crashes: Crashes) -> None:
        while True:
            await asyncio.sleep(backoff_s(max(crashes.count, self.failed_starts, 1)))
            await self._around.may_start.wait()
            async with self._lock:
                if not self._errand.current:
                    return
                try:
                    await self._begin(claim, crashes)
                    return
                except ServiceError as error:
                    name, failures = str(self.name), self.failed_starts
                    log.warning(
                        "agent.start_failed",
                        agent=name,
                        failures=failures,
                        why=error.message,
                    )
                    if error.reason is Reason.LEASE_FENCED:
                        again = partial(self._try_again, claim, crashes)
                        await self._renew(claim, again)
                        return

    async def _try_again(
        self, claim: Claim, crashes: Crashes, renewed: Claim | None
    ) -> None:
        # Kept: heartbeats must show the epoch that the lease has now.
        self._claim = renewed or claim
        self._errand.begin(self._restart(self._claim, crashes))

    async def _halt(
        self, grace_s: float, end_reason: str, *, patient: bool = False
    ) -> None:
        """Ends the process, if there is one, and saves.

        Raises SAVE_PENDING; the lease goes with `end_reason` once all is saved then.
        """
        await self._errand.drop()
        live, self._live = self._live, None
        if live is not None:
            live.run.move(State.STOPPING)
            report = await live.stop(grace_s)
            if report.survivors:
                live.run.error = f"processes {report.survivors} would not die"
            live.run.move(State.SAVING)
        await self._save_last(end_reason, patient=patient)

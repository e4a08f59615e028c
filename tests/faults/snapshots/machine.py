"""The whole snapshot service against a plain model, step by step, at random.

Two agents of a town, two instances with two boots each. Steps: claims, whole uploads
and uploads in pieces, from the owner and from everybody else, on the right parent and
on others; the same again; deletions, sweeps, restarts. Any step may meet a fault at any
of its calls to the stores. The model says which generations there are and what each
holds; where an answer was lost it allows both, looks, and goes on from what it found.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.snapshots.assembly import Parts, assemble
from services.snapshots.file_staging import FileStaging
from services.snapshots.generations import Claim, Snapshot
from services.snapshots.staging import PausedUpload
from services.snapshots.upkeep import OneProcess
from tests.fakes.blob_store import MemoryBlobs
from tests.fakes.rot_log import MemoryRotLog
from tests.fakes.snapshot_catalog import MemoryCatalog
from tests.faults.snapshots.faulty_ports import Fault, Faults, FaultyPort
from tests.faults.snapshots.machine_model import BOOTS, INSTANCES, TOWN, Agent, Made
from tests.faults.snapshots.machine_stream import Stream
from tests.support.clock import ManualClock
from tests.support.upload_frames import Save, downloaded, streamed

T = TypeVar("T")
# Which call of a step meets which fault; None: all goes well.
Struck: TypeAlias = tuple[int, Fault] | None

AGENTS: Final = [AgentName(TOWN, "a"), AgentName(TOWN, "b")]
SIZE_BYTES_MAX: Final = 1 << 20
# What is younger is never thinned out.
KEPT_S: Final = 600.0

agents = st.sampled_from(AGENTS)
# Most steps are left in peace, or there would be no history to lose.
faults = st.one_of(
    *[st.none()] * 4,
    st.tuples(st.integers(1, 8), st.sampled_from([Fault.BEFORE, Fault.AFTER])),
)
# Which part of a claim is wrong; most often none.
wrongs = st.sampled_from([*[""] * 9, "epoch", "instance", "boot"])


class SnapshotMachine(RuleBasedStateMachine):
    """One history. Subclasses plant defects."""

    uploads: Bundle[Made] = Bundle("uploads")
    streams: Bundle[Stream] = Bundle("streams")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="tk-machine-"))
        for name in ("staging", "scratch", "local"):
            (self.folder / name).mkdir()
        self.clock = ManualClock()
        self.faults = Faults()
        self.blobs = self.made_blobs()
        self.catalog = MemoryCatalog()
        self.numbers = itertools.count(1)
        self.model = {agent: Agent(agent) for agent in AGENTS}
        self.open: list[Stream] = []
        # Whether the last step may have failed because of a fault.
        self.blamed = False
        self.parts = self.assembled()

    def made_blobs(self) -> Any:
        return MemoryBlobs(self.folder / "local")

    def assembled(self) -> Parts:
        scratch = self.folder / "scratch"
        return assemble(
            FaultyPort(self.blobs, self.faults, self.folder),
            FaultyPort(self.catalog, self.faults, self.folder),
            FileStaging(self.folder / "staging", self.clock),
            OneProcess(),
            MemoryRotLog(),
            lambda: scratch / f"{next(self.numbers)}",
            self.clock,
            size_bytes_max=SIZE_BYTES_MAX,
        )

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def attempt(
        self, work: Callable[[], Awaitable[T]], fault: Struck
    ) -> T | ServiceError:
        """What came of it; a refusal for which the fault is to blame is passing."""
        self.faults.arm(*(fault or (0, Fault.BEFORE)))

        async def tried() -> T | ServiceError:
            try:
                return await work()
            except ServiceError as error:
                return error

        try:
            return self.run(tried())
        finally:
            self.blamed = self.faults.struck
            self.faults.arm(0, Fault.BEFORE)

    def teardown(self) -> None:
        try:
            self.check_contents()
        finally:
            for stream in self.open:
                self.run(stream.kill())
            self.run(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.folder)

    # claims

    @initialize()
    def own(self) -> None:
        """One of them is somebody's from the start."""
        self.advance(AGENTS[0], 1, INSTANCES[0], BOOTS[0], None)

    @rule(
        agent=agents,
        step=st.sampled_from([-1, 0, 0, 1, 1, 1]),
        instance=st.sampled_from(INSTANCES),
        boot_id=st.sampled_from(BOOTS),
        fault=faults,
    )
    def advance(
        self,
        agent: AgentName,
        step: int,
        instance: str,
        boot_id: str,
        fault: Struck,
    ) -> None:
        model = self.model[agent]
        claim = Claim(max(model.epoch + step, 1), instance, boot_id)
        allowed = model.yields_to(claim)
        found = self.attempt(lambda: self.parts.shelf.advance(agent, claim), fault)
        if not isinstance(found, ServiceError):
            assert allowed, f"{claim} took the agent from {model.owner}"
            assert model.head == found.head_generation
            model.owner = claim
        elif found.reason is Reason.LEASE_FENCED:
            assert not allowed, f"{claim} was refused: {found}"
        else:
            assert self.blamed, found
            state = self.run(self.parts.shelf.state(agent))
            now = Claim(state.epoch, state.instance, state.boot_id)
            assert now == model.owner or (allowed and now == claim)
            model.owner = now

    # uploads

    def arrived(
        self, one: Made, found: Snapshot | PausedUpload | ServiceError, on_head: bool
    ) -> None:
        """Compares what came of an upload with what may."""
        model = self.model[one.save.agent]
        known, takes = model.generation_of(one), model.takes(one, on_head)
        if isinstance(found, Snapshot):
            if known:
                assert known == found.generation, f"{found.name} was {known} before"
                return
            assert takes, f"{found.name} must not be: {one.save}, {model.owner}"
            assert model.last + 1 == found.generation
            model.enter(one, self.clock.monotonic())
            return
        assert isinstance(found, ServiceError), found
        if not self.blamed:
            assert not known, f"it is generation {known}, and is refused: {found}"
            gone = found.reason is Reason.UPLOAD_REUSED and one.acknowledged
            assert gone or not takes, f"must be: {one.save}: {found}"
            return
        # The answer is lost: it happened or it did not.
        state = self.run(self.parts.shelf.state(one.save.agent))
        if state.last != model.last:
            assert takes, f"{state.last} must not be: {one.save}, {model.owner}"
            assert state.head is not None
            assert (model.last + 1, one.save.upload_id) == (
                state.last,
                state.head.origin.upload_id,
            )
            model.enter(one, self.clock.monotonic())

    @rule(
        target=uploads,
        agent=agents,
        body=st.sampled_from(["base", "delta", "delta", "file"]),
        wrong=wrongs,
        match=st.sampled_from([*[0] * 8, 1, -1]),
        stray=st.sampled_from([False, False, False, True]),
        fault=faults,
    )
    def upload(
        self,
        agent: AgentName,
        body: str,
        wrong: str,
        match: int,
        stray: bool,
        fault: Struck,
    ) -> Made:
        """All of it in one stream."""
        number = next(self.numbers)
        one = self.model[agent].make(number, body, wrong, match, stray)
        self.send(one, fault)
        return one

    @rule(
        target=uploads,
        agent=agents,
        body=st.sampled_from(["base", "delta", "delta", "delta"]),
        stray=st.sampled_from([*[False] * 5, True]),
    )
    def save(self, agent: AgentName, body: str, stray: bool) -> Made:
        """As most are: by the owner, mostly on the head, in peace."""
        one = self.model[agent].make(next(self.numbers), body, stray=stray)
        self.send(one, None)
        return one

    @rule(one=uploads, fault=faults)
    def repeat(self, one: Made, fault: Struck) -> None:
        """The same again, as after a lost answer; maybe long after."""
        self.send(one, fault)

    def send(self, one: Made, fault: Struck) -> None:
        on_head = self.model[one.save.agent].on_head(one)
        frames = one.save.frames(self.persisted(one.save))
        found = self.attempt(lambda: self.parts.intake.upload(streamed(frames)), fault)
        self.arrived(one, found, on_head)

    def persisted(self, save: Save) -> int:
        try:
            found = self.run(self.parts.intake.paused(save.agent, save.upload_id))
            return found.persisted_bytes
        except ServiceError:
            return 0

    @rule(
        target=streams,
        agent=agents,
        body=st.sampled_from(["base", "delta", "file"]),
        wrong=st.sampled_from([*[""] * 8, "epoch", "instance"]),
    )
    def begin(self, agent: AgentName, body: str, wrong: str) -> Any:
        """A stream with all but its trailer, that is then left open."""
        model = self.model[agent]
        one = model.make(next(self.numbers), body, wrong)
        stream = self.run(self.begun(one, model.on_head(one)))
        if stream.task.done():
            self.blamed = False
            self.arrived(one, self.run(stream.outcome()), stream.on_head)
            return multiple()
        self.open.append(stream)
        return stream

    async def begun(self, one: Made, on_head: bool) -> Stream:
        stream = Stream(one, on_head, self.parts.intake.upload)
        await stream.waiting()
        return stream

    @rule(target=uploads, stream=consumes(streams), fault=faults)
    def end(self, stream: Stream, fault: Struck) -> Any:
        """The trailer comes, whatever happened meanwhile."""
        if stream not in self.open:
            return multiple()
        self.open.remove(stream)
        stream.end()
        found = self.attempt(lambda: stream.task, fault)
        self.arrived(stream.made, found, stream.on_head)
        return stream.made

    @rule(target=uploads, stream=consumes(streams))
    def cut(self, stream: Stream) -> Any:
        """It ends without a trailer; `repeat` may take it up."""
        if stream not in self.open:
            return multiple()
        self.open.remove(stream)
        stream.cut()
        found = self.run(stream.outcome())
        assert isinstance(found, PausedUpload), found
        return stream.made

    # the rest

    @rule(
        agent=agents,
        which=st.sampled_from([1, 2, 3, 1, 2, 3, 0]),
        right=st.booleans(),
        fault=faults,
    )
    def delete(self, agent: AgentName, which: int, right: bool, fault: Struck) -> None:
        """One generation, or all."""
        model = self.model[agent]
        numbers = sorted(model.kept)
        wanted = numbers[which % len(numbers)] if which and numbers else None
        epoch = model.epoch + (not right)
        claim = Claim(epoch or None)
        found = self.attempt(
            lambda: self.parts.shelf.delete(agent, wanted, claim, None), fault
        )
        gone = set(numbers) if wanted is None else {wanted}
        if isinstance(found, ServiceError) and not self.blamed:
            assert not right or wanted == model.head, found
            return
        if isinstance(found, ServiceError):
            listed = self.listed(agent)
            if listed == set(numbers):
                return
            assert listed == set(numbers) - gone
        assert right, "deleted under a wrong epoch"
        assert wanted is None or wanted != model.head
        for number in gone:
            del model.kept[number]
        if wanted is None:
            model.head = 0

    @rule(seconds=st.sampled_from([0, 1, 30, 700]), full=st.booleans(), fault=faults)
    def sweep(self, seconds: int, full: bool, fault: Struck) -> None:
        """Time passes, then old generations and unused segments go."""
        self.clock.advance(seconds)
        found = self.attempt(lambda: self.parts.sweeper.sweep(full=full), fault)
        assert found is None or self.blamed, found
        self.thinned()

    def thinned(self) -> None:
        """Only what is old may be gone, and never a head."""
        for agent, model in self.model.items():
            for number in set(model.kept) - self.listed(agent):
                age_s = self.clock.monotonic() - model.kept.pop(number).made_at_s
                assert number != model.head, f"the head {number} of {agent} is gone"
                assert age_s > KEPT_S, f"{number} of {agent} is gone after {age_s} s"

    @rule(fault=faults)
    def restart(self, fault: Struck) -> None:
        """The process dies; the next one has what the stores and the disk have."""
        for stream in self.open:
            self.run(stream.kill())
        self.open.clear()
        self.lose()
        self.parts = self.assembled()
        found = self.attempt(self.parts.sweeper.start, fault)
        if isinstance(found, ServiceError):
            assert self.blamed, found
            self.run(self.parts.sweeper.start())

    def lose(self) -> None:
        """What a process takes with it."""

    @rule(agent=agents)
    def read(self, agent: AgentName) -> None:
        """Everything that is there can be read, and is what it was."""
        for number, kept in self.model[agent].kept.items():
            found = self.attempt(partial(self.download, agent, number), None)
            assert kept.made.save.content == found, f"{number} of {agent}: {found!r}"

    def check_contents(self) -> None:
        for agent in AGENTS:
            self.read(agent)

    async def download(self, agent: AgentName, number: int) -> bytes:
        snapshot = await self.parts.shelf.snapshot(agent, number)
        return await downloaded(self.parts.downloads, snapshot)

    def listed(self, agent: AgentName) -> set[int]:
        page = self.run(self.parts.shelf.page(agent, None, 500))
        return {one.generation for one in page.snapshots}

    @invariant()
    def nothing_is_lost_and_nothing_more(self) -> None:
        """The list is the model's, and so is the owner."""
        for agent, model in self.model.items():
            state = self.run(self.parts.shelf.state(agent))
            assert (model.last, model.head) == (state.last, state.head_generation)
            assert model.owner == Claim(state.epoch, state.instance, state.boot_id)
            assert set(model.kept) == self.listed(agent)

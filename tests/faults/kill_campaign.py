"""SIGKILL of a whole container, disk wiped, at random instants of a conversation.

Each round: a message with tool calls and slow text is accepted, saves are asked for
all the while, and at a random instant the supervisor, Kilo and every tool die and
their disk is wiped. Then a new container must come back by itself with

- a database that passes SQLite's integrity_check,
- every message that a `SaveAgent` had answered OK for, unchanged once it was finished,
- every accepted message stored exactly once, and answered or marked interrupted.

Run it whole: `make kills ROUNDS=50 SEED=1`.
"""

from __future__ import annotations

import random
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import grpc

from services.cli.runtimes import install_kilo
from services.cli.stand_in_model import StandInModel
from tests.faults.campaign import Rows, Say, percentile, run
from tests.support.kilo_session import (
    AGENT,
    Session,
    check_integrity,
    database,
    read_session,
    start_mayor,
)
from tests.support.plane import PlaneProcess
from townkeeper.registry.v1 import registry_pb2, resources_pb2
from townkeeper.snapshots.v1 import snapshots_pb2
from townkeeper.supervisor.v1 import supervisor_pb2
from townkeeper.supervisor.v1.resources_pb2 import Run

BACK_S = 90.0
SETTLE_S = 90.0
# A turn as below takes about 4 s: kills fall before, within and after it.
KILL_WITHIN_S = 5.0


@dataclass
class Round:
    """What one kill did."""

    number: int
    killed_at_s: float
    mid_turn: bool = False
    acknowledged: int = 0  # messages in the last state that a save answered OK for
    back_s: float = 0.0
    outcome: str = ""
    complaints: list[str] = field(default_factory=list)


class Oracle:
    """Saves in a loop, and remembers what each OK stands for."""

    def __init__(self, plane: PlaneProcess) -> None:
        self._plane = plane
        self._stop = threading.Event()
        self.promised = Session({})
        self._thread = threading.Thread(target=self._run, name="oracle")

    def __enter__(self) -> Oracle:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        stub = self._plane.supervisor()
        request = supervisor_pb2.SaveAgentRequest(name=self._plane.agent_name(AGENT))
        while not self._stop.is_set():
            try:
                # Read before the call: all of this must be durable when it answers.
                before = read_session(database(self._plane))
                stub.SaveAgent(request, timeout=5.0)
                self.promised = before
            except (grpc.RpcError, apsw.Error):
                return  # killed: what was promised stands
            self._stop.wait(0.1)


class Campaign:
    """Rounds on one plane; the session grows from round to round."""

    def __init__(self, plane: PlaneProcess, model: StandInModel, seed: int) -> None:
        self._plane = plane
        self._model = model
        self._random = random.Random(seed)
        self._said: dict[str, str] = {}  # message id → text
        self._session_id = ""
        self.rounds: list[Round] = []

    def begin(self) -> None:
        start_mayor(self._plane, self._model.url)
        self._say("run: echo begin")
        self._settle()
        self._session_id = self._plane.wait_running(AGENT).session_id

    def play(self, number: int) -> Round:
        """One message, one kill, one return, all checked."""
        result = Round(number, self._random.uniform(0.0, KILL_WITHIN_S))
        lines = [f"round {number}", "run: echo one", "run: sleep 0.5 && echo two"]
        lines += ["write notes.txt: " + "n" * self._random.randint(1, 2000)]
        lines += ["slowly: 1", f"long: {self._random.randint(100, 4000)}"]
        with Oracle(self._plane) as oracle:
            self._say("\n".join(lines))
            time.sleep(result.killed_at_s)  # the instant of death, not a wait
            result.mid_turn = self._mid_turn()
            begun = time.monotonic()
            self._plane.kill_container(wipe=True)
        run = self._back()
        result.back_s = time.monotonic() - begun
        result.acknowledged = len(oracle.promised.messages)
        self._settle()
        result.outcome = self._outcome()
        self._check(result, oracle.promised, run)
        self.rounds.append(result)
        return result

    def _say(self, text: str) -> None:
        message_id = uuid.uuid4().hex
        self._plane.registry("user").EnqueueMessage(
            registry_pb2.EnqueueMessageRequest(
                parent=self._plane.agent_name(AGENT), message_id=message_id, text=text
            )
        )
        self._said[message_id] = text

    def _mid_turn(self) -> bool:
        run = self._plane.find_run(AGENT)
        return run is not None and run.status == "busy"

    def _back(self) -> Run:
        """The run of the new container, once it is ready."""
        return self._plane.wait_running(AGENT, limit_s=BACK_S)

    def _settle(self) -> None:
        for message_id in list(self._said)[-1:]:
            self._plane.wait_settled(AGENT, message_id, limit_s=SETTLE_S)

    def _outcome(self) -> str:
        last = list(self._said)[-1]
        message = self._plane.wait_settled(AGENT, last)
        return resources_pb2.Message.State.Name(message.state).removeprefix("STATE_")

    def _hydrated(self, run: Run) -> int:
        """The generation that the run began with: the last of an earlier epoch."""
        request = snapshots_pb2.ListSnapshotsRequest(
            parent=self._plane.agent_name(AGENT), page_size=500
        )
        listed = self._plane.snapshots().ListSnapshots(request).snapshots
        return max(one.generation for one in listed if one.epoch < run.epoch)

    def _check(self, result: Round, promised: Session, run: Run) -> None:
        complain: Callable[[str], None] = result.complaints.append
        if run.session_id != self._session_id:
            complain(f"session {run.session_id}, not {self._session_id}")
        if not run.resumed:
            complain("not resumed")
        with tempfile.TemporaryDirectory() as folder:
            # What was hydrated: the next prompt may remove an answer that was cut.
            copy = Path(folder) / "restored.db"
            number = f"--generation={self._hydrated(run)}"
            self._plane.run("snapshots", "export", AGENT, str(copy), number)
            verdict = check_integrity(copy)
            restored = read_session(copy)
            newest = Path(folder) / "newest.db"
            self._plane.run("snapshots", "export", AGENT, str(newest))
            texts = read_session(newest).texts
        if verdict != "ok":
            complain(f"integrity_check: {verdict}")
        for message_id, stored in promised.messages.items():
            if message_id not in restored.messages:
                complain(f"acknowledged message {message_id} is missing")
                continue
            changed = restored.messages[message_id] != stored
            if changed and message_id in promised.finished:
                complain(f"acknowledged message {message_id} has changed")
        for text in self._said.values():
            if texts.count(text) != 1:
                complain(f"{texts.count(text)} times stored: {text[:40]!r}")


def play(rounds: int, seed: int, report: Say) -> list[Round]:
    """The whole campaign; says how each round went."""
    kilo = install_kilo()
    with (
        tempfile.TemporaryDirectory(prefix="tk-kills-") as folder,
        StandInModel() as model,
        PlaneProcess(Path(folder) / "d", TOWNKEEPER_KILO_BIN=str(kilo)) as plane,
    ):
        campaign = Campaign(plane, model, seed)
        campaign.begin()
        for number in range(1, rounds + 1):
            one = campaign.play(number)
            verdict = "; ".join(one.complaints) or "ok"
            report(
                f"round {number}/{rounds}: killed after {one.killed_at_s:.2f} s"
                f"{' mid-turn' if one.mid_turn else ''}, back in {one.back_s:.1f} s,"
                f" {one.acknowledged} messages acknowledged, {one.outcome}: {verdict}"
            )
        return campaign.rounds


def rows(rounds: list[Round]) -> Rows:
    """The figures, as they stand in docs/proof.md."""
    backs = [one.back_s for one in rounds]
    return [
        ("killed in mid-turn", sum(one.mid_turn for one in rounds)),
        ("messages delivered", sum(one.outcome == "DELIVERED" for one in rounds)),
        ("messages interrupted", sum(one.outcome == "INTERRUPTED" for one in rounds)),
        ("acknowledged messages checked", sum(one.acknowledged for one in rounds)),
        ("back, median", f"{percentile(backs, 50):.1f} s"),
        ("back, worst", f"{max(backs):.1f} s"),
    ]


if __name__ == "__main__":
    sys.exit(run(__doc__, 50, play, rows))

"""The parent of a supervisor: starts it again when it is killed, while its agents live.

It is the first process of a container, and small, so that little in it can fail:
standard library, no thread, no network. Orphans become its children, so whoever ends it
with all below it has ended the container. It ends as its supervisor does, unless that
was killed.

Until a new supervisor has renewed the leases it also holds their deadline: agents that
may be another instance's by then stand still (see freezer.py).
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from services.supervisor.process_tree import (
    Process,
    ProcessIdentity,
    identify,
    table,
)

# Says that the input is a socket to the keeper, which ends when the keeper does.
KEPT_VARIABLE: Final = "TOWNKEEPER_KEPT"
TOKEN_VARIABLE: Final = "GASTOWN_CONTAINER_TOKEN"
# Words of a message to the keeper.
GOOD_UNTIL: Final = "good_until"
TOKEN: Final = "token"
# The first comes at once: agents that nobody saves are at risk.
PAUSES_S: Final = (0.05, 0.5, 1.0, 2.0, 5.0)
# One that lived so long is judged anew.
STEADY_S: Final = 60.0
LOOK_EVERY_S: Final = 0.25
KILL_S: Final = 10.0
POLL_S: Final = 0.01

_PR_SET_CHILD_SUBREAPER: Final = 36
_MESSAGE_BYTES_MAX: Final = 64 * 1024
_ENDS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_AWAITED: Final = _ENDS | {signal.SIGCHLD, signal.SIGIO}


class Keeper:
    """Keeps one command running."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._environ = {**os.environ, KEPT_VARIABLE: "1"}
        self._pid = 0  # of the supervisor; 0 while there is none
        self._code = 0  # of the last one; negative: the signal that ended it
        self._told_to_end = 0  # how often
        self._handed_on = False  # to the supervisor that is there now
        self._cut = False  # somebody insisted
        self._serves = False  # it does: it ends well when it is told to
        # On the monotonic clock; None: nobody else may have them.
        self._good_until: float | None = None
        self._renewed = False  # by the supervisor that is there now
        self._stopped: set[ProcessIdentity] = set()

    def run(self) -> int:
        """Until the supervisor ends by itself or is told to; its exit code."""
        _become_subreaper()
        # Waited for one by one: none comes between two steps.
        signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
        deaths = 0
        while True:
            begun = time.monotonic()
            self._live_through()
            deaths = 1 if time.monotonic() - begun > STEADY_S else deaths + 1
            if self._code >= 0 or self._has_obeyed:
                break
            _say("supervisor.killed", signal=-self._code, deaths=deaths)
            # Also for one more that is to end: it saves what its agents wrote.
            self._pause(PAUSES_S[min(deaths, len(PAUSES_S)) - 1])
        kill_all_below()
        return self._code if self._code >= 0 else 128 - self._code

    def _live_through(self) -> None:
        """One supervisor, from its start to its end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            ours.setblocking(False)
            # A message is announced by SIGIO, among the signals that are waited for.
            fcntl.fcntl(ours, fcntl.F_SETOWN, os.getpid())
            flags = fcntl.fcntl(ours, fcntl.F_GETFL)
            fcntl.fcntl(ours, fcntl.F_SETFL, flags | os.O_ASYNC)
            self._renewed = self._serves = self._handed_on = False
            with theirs:
                self._pid = self._start(theirs)
            while self._pid:
                self._wait(LOOK_EVERY_S if self._on_guard else None)
                self._listen(ours)
                self._hand_on()
                self._hold_deadline()

    def _start(self, stdin: socket.socket) -> int:
        """Its pid; 0 if the machine would not have it, as if it had been killed."""
        try:
            return os.posix_spawn(
                self._command[0],
                self._command,
                self._environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, stdin.fileno(), 0)],
                # Of Ctrl-C it hears once, from us.
                setpgroup=0,
                setsigmask=[],
            )
        except OSError as error:
            _say("supervisor.not_started", why=str(error))
            self._code = -signal.SIGKILL
            return 0

    def _pause(self, length_s: float) -> None:
        until = time.monotonic() + length_s
        while (left_s := until - time.monotonic()) > 0 and not self._told_to_end:
            self._wait(min(left_s, LOOK_EVERY_S))
            self._hold_deadline()

    def _hand_on(self) -> None:
        """The wish that it ends, once it can; who insists has it ended at once."""
        if not self._pid or not self._told_to_end:
            return
        if self._told_to_end > 1 and not self._serves:
            os.kill(self._pid, signal.SIGKILL)
            self._cut = True
        elif self._serves and (self._told_to_end > 1 or not self._handed_on):
            os.kill(self._pid, signal.SIGTERM)
            self._told_to_end, self._handed_on = 1, True

    def _wait(self, limit_s: float | None) -> None:
        """For one signal, and takes it in."""
        if limit_s is None:
            number = signal.sigwait(_AWAITED)
        else:
            info = signal.sigtimedwait(_AWAITED, limit_s)
            if info is None:
                return
            number = signal.Signals(info.si_signo)
        if number in _ENDS:
            self._told_to_end += 1
        elif number == signal.SIGCHLD:
            self._reap()

    def _listen(self, ours: socket.socket) -> None:
        """What the supervisor says, also in the moment before its death."""
        while True:
            try:
                raw = ours.recv(_MESSAGE_BYTES_MAX)
            except OSError:
                return
            if not raw:
                return
            message = json.loads(raw)
            self._serves = True
            if GOOD_UNTIL in message:
                self._good_until, self._renewed = message[GOOD_UNTIL], True
                # What was not to go on is dead by now.
                for process in self._stopped:
                    _send(process, signal.SIGCONT)
                self._stopped.clear()
            if TOKEN in message:
                # The one that we were started with may have expired meanwhile.
                self._environ[TOKEN_VARIABLE] = message[TOKEN]

    def _reap(self) -> None:
        """All that has ended: the supervisor, and orphans of its agents."""
        while (ended := _ended()) is not None:
            if ended.si_pid == self._pid:
                exited = ended.si_code == os.CLD_EXITED
                self._code = ended.si_status if exited else -ended.si_status
                self._pid = 0

    @property
    def _has_obeyed(self) -> bool:
        """Whether it was us whom it died of. Killed in the middle of its end it left
        agents behind, which another one is to save."""
        return self._cut or (self._handed_on and self._code == -signal.SIGTERM)

    @property
    def _on_guard(self) -> bool:
        """Whether nobody but us knows until when the leases are good."""
        return self._good_until is not None and not (self._pid and self._renewed)

    def _hold_deadline(self) -> None:
        if not self._on_guard or time.monotonic() < (self._good_until or 0.0):
            return
        own = {process.pid for process in below(self._pid)} if self._pid else set()
        for process in below(os.getpid()):
            if process.pid not in own and process.state not in "TZX":
                _send(process.identity, signal.SIGSTOP)
                self._stopped.add(process.identity)


def below(root: int) -> list[Process]:
    """All that descends from a process, and itself unless it is this one."""
    processes = table()
    found, more = {root}, {root}
    while more:
        more = {p.pid for p in processes.values() if p.parent in found} - found
        found |= more
    found.discard(os.getpid())
    return [process for process in processes.values() if process.pid in found]


def kill_all_below() -> None:
    """Stopped first, so that none forks; whoever loses its parent becomes our child, so
    none is missed."""
    until = time.monotonic() + KILL_S
    me = os.getpid()
    while (alive := [p for p in below(me) if not p.dead]) and time.monotonic() < until:
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in alive:
                _send(process.identity, number)
        time.sleep(POLL_S)
        while _ended() is not None:
            pass


def _ended() -> os.waitid_result | None:
    """A child that has ended, reaped; None if none has."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None


def _send(process: ProcessIdentity, number: signal.Signals) -> None:
    """Exactly this process, if it is there and ours to signal."""
    with suppress(OSError):
        pidfd = os.pidfd_open(process.pid)
        try:
            if identify(process.pid) == process:
                signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)


def _say(event: str, **fields: object) -> None:
    line = {
        "event": event,
        "level": "error",
        "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "service": "keeper",
        **fields,
    }
    sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()


def _become_subreaper() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot become a subreaper")


def main() -> int:
    """Keeps the supervisor that the environment describes."""
    return Keeper([sys.executable, "-P", "-m", "services.supervisor"]).run()


if __name__ == "__main__":
    sys.exit(main())

"""How much of a program's output is let through; the rest is dropped and counted."""

from __future__ import annotations

from services.chassis.clock import Clock, SystemClock
from services.supervisor.runtime import Output, OutputSink, Stream

OUTPUT_BYTES_PER_S = 1 << 20


class Meter:
    """Passes pieces on until a second's allowance is used up. A piece is passed whole
    or dropped whole, and the next one that passes says how much was lost before it."""

    def __init__(
        self,
        sink: OutputSink,
        rate: int = OUTPUT_BYTES_PER_S,
        clock: Clock | None = None,
    ) -> None:
        self._sink = sink
        self._rate = rate
        self._clock = clock or SystemClock()
        self._left = float(rate)
        self._seen = self._clock.monotonic()
        self._dropped = 0
        self.dropped_total = 0

    def take(self, size: int) -> bool:
        """True when `size` more bytes may pass now; they are then used up."""
        now = self._clock.monotonic()
        self._left = min(self._rate, self._left + (now - self._seen) * self._rate)
        self._seen = now
        if size > self._left:
            return False
        self._left -= size
        return True

    def pass_on(self, stream: Stream, data: bytes) -> None:
        """One piece of output, on its way to the sink or nowhere."""
        if self.take(len(data)):
            dropped, self._dropped = self._dropped, 0
            self._sink(Output(stream, data, dropped))
        else:
            self.drop(len(data))

    def end(self) -> None:
        """The program has ended: tells what was lost since the last piece."""
        if self._dropped:
            self._sink(Output(Stream.STDOUT, b"", self._dropped))
            self._dropped = 0

    def drop(self, size: int) -> None:
        """Counts bytes that were not let through."""
        self._dropped += size
        self.dropped_total += size

"""Output beyond its allowance is dropped and counted."""

from services.supervisor.meter import Meter
from services.supervisor.runtime import Output, Stream
from tests.support.clock import ManualClock

RATE = 100


def test_what_is_beyond_the_allowance_is_counted_and_told():
    """The next piece that passes says how many bytes are missing before it."""
    passed: list[Output] = []
    clock = ManualClock()
    meter = Meter(passed.append, RATE, clock)

    for size in (60, 60, 60):
        meter.pass_on(Stream.STDOUT, b"x" * size)
    clock.advance(1)
    meter.pass_on(Stream.STDERR, b"y" * 10)

    assert 120 == meter.dropped_total
    assert [
        Output(Stream.STDOUT, b"x" * 60),
        Output(Stream.STDERR, b"y" * 10, dropped_bytes=120),
    ] == passed


def test_silence_saves_up_no_more_than_a_second():
    """An hour without output does not buy an hour's flood."""
    clock = ManualClock()
    meter = Meter(lambda output: None, RATE, clock)
    clock.advance(3600)

    assert meter.take(RATE)
    assert not meter.take(1)

"""Which state an agent starts from."""

import pytest

from services.chassis.errors import Reason, ServiceError
from services.supervisor.descent import Source, check_version, choose


@pytest.mark.parametrize(
    ("local", "exists", "head", "last", "expected"),
    [
        pytest.param(None, False, 0, 0, Source.FRESH, id="nothing anywhere"),
        pytest.param(None, False, 3, 3, Source.FETCH, id="new disk"),
        pytest.param(2, False, 3, 3, Source.FETCH, id="record without a file"),
        pytest.param(3, True, 3, 3, Source.LOCAL, id="only the process died"),
        pytest.param(0, True, 0, 0, Source.LOCAL, id="died before its first save"),
        pytest.param(2, True, 3, 3, Source.FETCH, id="somebody else went on"),
        pytest.param(0, True, 1, 1, Source.FETCH, id="somebody else was first"),
        pytest.param(4, True, 3, 3, Source.AHEAD, id="the store forgot"),
        pytest.param(None, True, 0, 0, Source.LOCAL, id="never recorded, never saved"),
        pytest.param(None, True, 1, 1, Source.FETCH, id="of unknown descent"),
        pytest.param(4, True, 0, 0, Source.AHEAD, id="the store forgot everything"),
        pytest.param(4, True, 0, 4, Source.FRESH, id="deleted, and the disk kept"),
        pytest.param(3, True, 0, 4, Source.FRESH, id="deleted, and an old disk"),
        pytest.param(0, True, 0, 4, Source.LOCAL, id="begun anew after a deletion"),
    ],
)
def test_choose(
    local: int | None, exists: bool, head: int, last: int, expected: Source
) -> None:
    """The file on disk is used only while nobody has gone on from its generation."""
    assert expected == choose(local, exists, head, last)


@pytest.mark.parametrize(
    ("version", "saved"),
    [
        pytest.param("7.7.9", "7.7.9", id="same"),
        pytest.param("7.7.7", "7.7.9", id="older patch"),
        pytest.param("7.8.0", "7.7.9", id="upgrade"),
        pytest.param("10.0.1", "9.9.9", id="numbers, not text"),
        pytest.param("", "", id="no versions"),
        pytest.param("7.7.9", "", id="unknown writer"),
    ],
)
def test_versions_that_may_start(version: str, saved: str) -> None:
    """A session of the same or an older runtime is started."""
    check_version("kilo", version, "kilo", saved)


@pytest.mark.parametrize(
    ("runtime", "version", "saved_runtime", "saved"),
    [
        pytest.param("kilo", "7.0.33", "kilo", "7.7.9", id="downgrade"),
        pytest.param("kilo", "9.9.9", "kilo", "10.0.0", id="numbers, not text"),
        pytest.param("exec", "", "kilo", "7.7.9", id="another program"),
        pytest.param("kilo", "beta", "kilo", "7.7.9", id="not comparable"),
    ],
)
def test_versions_that_are_refused(
    runtime: str, version: str, saved_runtime: str, saved: str
) -> None:
    """A session that the runtime could not read, or would damage, is not opened."""
    with pytest.raises(ServiceError) as refused:
        check_version(runtime, version, saved_runtime, saved)

    assert Reason.RUNTIME_MISMATCH == refused.value.reason

"""Places for requests."""

from __future__ import annotations

import pytest

from services.chassis.errors import Reason, ServiceError
from services.gateway.app import Room


def test_a_room_holds_so_many():
    """The next one is told to come back, and finds a place when one has left."""
    room = Room(2)

    with room.place():
        with room.place(), pytest.raises(ServiceError) as refused, room.place():
            pass
        assert 1 == room.taken
        with room.place():
            assert 2 == room.taken

    assert Reason.TOO_MANY_CALLS is refused.value.reason
    assert 0 == room.taken

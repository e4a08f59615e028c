"""What a refused call says, as tests compare it."""

from __future__ import annotations

from collections.abc import Awaitable

import grpc
import pytest

from services.chassis.errors import ServiceError


async def refusal(call: Awaitable[object]) -> ServiceError:
    """The error of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return ServiceError.from_rpc(failed.value)


async def reason_of(call: Awaitable[object]) -> tuple[str, str]:
    """Status code and reason of a call that must fail."""
    error = await refusal(call)
    return error.code.name, error.reason.name

"""The supervisor's own token: what its calls show, until it is given another."""

from __future__ import annotations

from collections.abc import Callable

from services.chassis.access import Kind
from services.chassis.auth import Verifier
from services.chassis.errors import Code, Reason, ServiceError


class ContainerToken:
    """A TokenSource whose token may be replaced; the next call shows the new one."""

    def __init__(
        self,
        token: str,
        town: str,
        on_replaced: Callable[[str], None] = lambda token: None,
    ) -> None:
        self._token = token
        self._town = town
        self._on_replaced = on_replaced

    def token(self) -> str:
        return self._token

    async def replace(self, token: str, verifier: Verifier) -> None:
        """Takes another container token of the town.

        Raises FIELD_REQUIRED, FIELD_INVALID, and KEYS_UNAVAILABLE while no key is known
        that could prove it; the old one stays then. One that is signed by a key which
        cannot be fetched now is FIELD_INVALID as well.
        """
        if not token:
            raise _refused(Reason.FIELD_REQUIRED, "give `token`")
        try:
            caller = await verifier.verify(token)
        except ServiceError as error:
            if error.code is not Code.UNAUTHENTICATED:
                raise
            raise _refused(Reason.FIELD_INVALID, error.message) from error
        if caller.kind is not Kind.CONTAINER or self._town not in caller.towns:
            raise _refused(
                Reason.FIELD_INVALID, f"it is no container token of town {self._town}"
            )
        self._token = token
        self._on_replaced(token)


def _refused(reason: Reason, why: str) -> ServiceError:
    return ServiceError(
        reason, f"cannot take the new container token: {why}", field="token"
    )

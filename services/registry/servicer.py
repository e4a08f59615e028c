"""RegistryService, put together from its parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from services.chassis.clock import Clock, SystemClock
from services.chassis.names import TownName
from services.registry.agent_feed import DEFAULTS, Limits, Watches
from services.registry.agents_servicer import AgentsServicer
from services.registry.callbacks_servicer import CallbacksServicer
from services.registry.inbox_servicer import InboxServicer
from services.registry.issuer import Issuer
from services.registry.leases import HEARTBEAT_INTERVAL_S, TTL_S
from services.registry.leases_servicer import LeasesServicer
from services.registry.nudges_servicer import NudgesServicer
from services.registry.revocation_feed import RevocationFeed
from services.registry.store import RegistryStore
from services.registry.tokens_servicer import TokensServicer
from townkeeper.registry.v1 import registry_pb2 as pb
from townkeeper.registry.v1 import registry_pb2_grpc


class RegistryServicer(
    AgentsServicer,
    LeasesServicer,
    InboxServicer,
    CallbacksServicer,
    NudgesServicer,
    TokensServicer,
    registry_pb2_grpc.RegistryServiceServicer,
):
    """Every call of the contract, over one store."""

    def __init__(
        self,
        store: RegistryStore,
        public_keys: Callable[[], Mapping[str, Any]],
        feed: RevocationFeed,
        *,
        issuer: Issuer | None = None,
        clock: Clock | None = None,
        ttl_s: float = TTL_S,
        heartbeat_interval_s: float = HEARTBEAT_INTERVAL_S,
        limits: Limits = DEFAULTS,
    ) -> None:
        self._agents = store
        self._watches = Watches(store, limits)
        self._leases = store
        self._inbox = store
        self._callbacks = store
        self._nudges = store
        self._revocations = store
        self._feed = feed
        self._issuer = issuer or Issuer(None)
        self._clock = clock or SystemClock()
        self._public_keys = public_keys
        self.ttl_s = ttl_s
        self.heartbeat_interval_s = heartbeat_interval_s

    async def GetPublicKeys(
        self, request: pb.GetPublicKeysRequest, context: Any
    ) -> pb.GetPublicKeysResponse:
        TownName.parse(request.parent)
        return pb.GetPublicKeysResponse(jwks_json=json.dumps(self._public_keys()))

"""What the registry reads from its environment."""

from __future__ import annotations

import pytest

from services.chassis.settings import SettingsError, load
from services.registry.settings import RegistrySettings

GOOD = {
    "TOWNKEEPER_REDIS_URL": "redis://127.0.0.1:6379",
    "TOWNKEEPER_JWKS_URL": "http://gateway/.well-known/jwks.json",
}


def test_settings_have_defaults():
    """A store and keys are all that must be said."""
    settings = load(RegistrySettings, GOOD)

    assert ("127.0.0.1:50051", "development", 10.0, 2.0, 0) == (
        settings.address,
        settings.environment,
        settings.lease_ttl_s,
        settings.heartbeat_interval_s,
        settings.redis.replicas,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOWNKEEPER_REGISTRY_ADDR", "nowhere"),
        ("TOWNKEEPER_LEASE_TTL", "5s"),
        ("TOWNKEEPER_LEASE_TTL", "soon"),
        ("TOWNKEEPER_HEARTBEAT_INTERVAL", "4s"),
        ("TOWNKEEPER_REDIS_URL", "http://redis"),
        ("TOWNKEEPER_REDIS_URL", "redis://<your-redis>"),
        ("TOWNKEEPER_REDIS_REPLICAS", "-1"),
        ("TOWNKEEPER_ENVIRONMENT", "changeme"),
    ],
)
def test_settings_name_what_is_wrong(name, value):
    """A wrong variable stops the start and is named."""
    with pytest.raises(SettingsError, match=name):
        load(RegistrySettings, {**GOOD, name: value})

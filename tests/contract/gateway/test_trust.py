"""Where trust comes from: TLS, and keys that another gateway publishes."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.contract.gateway.gateway_process import GatewayProcess
from tests.support.certificates import Authority
from tests.support.tokens import TOWN, Tokens

pytestmark = pytest.mark.integration
NOWHERE = "127.0.0.1:1"
JWKS = "/.well-known/jwks.json"
LIST = f"/api/towns/{TOWN}/container-registry"


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path)


@pytest.fixture
def gateway(tokens: Tokens) -> Iterator[GatewayProcess]:
    process = GatewayProcess(NOWHERE, NOWHERE, tokens.folder)
    yield process
    if process.started:
        process.stop()


def get(
    url: str, path: str, token: str = "", verify: ssl.SSLContext | bool = True
) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=url, trust_env=False, verify=verify) as client:
        return client.get(path, headers=headers)


def test_with_a_certificate_it_speaks_https(gateway: GatewayProcess, tmp_path: Path):
    """Clients need none of their own; those that speak HTTP are not answered."""
    tls = Authority(tmp_path / "tls").issue("gateway")
    gateway.environ |= {
        "TOWNKEEPER_TLS_CERT": str(tls.cert),
        "TOWNKEEPER_TLS_KEY": str(tls.key),
        "TOWNKEEPER_TLS_CA": str(tls.ca),
    }

    url = gateway.start()

    assert url.startswith("https://")
    trust = ssl.create_default_context(cafile=tls.ca)
    assert 200 == get(url, "/healthz", verify=trust).status_code
    with pytest.raises(httpx.RemoteProtocolError):
        get(url.replace("https", "http"), "/healthz")


def test_keys_that_another_gateway_publishes(gateway: GatewayProcess, tokens: Tokens):
    """Tokens of the one count at the other, those of strangers at neither."""
    first = gateway.start()
    other = GatewayProcess(NOWHERE, NOWHERE, tokens.folder / "elsewhere")
    del other.environ["TOWNKEEPER_KEYS_DIR"]
    other.environ["TOWNKEEPER_JWKS_URL"] = f"{first}{JWKS}"
    url = other.start()

    try:
        # 503: let in, and nobody behind it.
        assert 503 == get(url, LIST, tokens.container()).status_code
        assert 401 == get(url, LIST, tokens.foreign_key()).status_code
        assert get(first, JWKS).json() == get(url, JWKS).json()
    finally:
        other.stop()

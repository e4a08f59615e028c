"""The registry tells whose tokens count, to those who must verify them."""

import json

from services.chassis.auth import Kind
from services.chassis.keys import parse_jwks
from townkeeper.registry.v1 import registry_pb2 as pb


async def test_the_public_keys_are_the_planes(registry):
    """What it answers verifies the plane's own tokens, and holds nothing private."""
    reply = await registry.stub(Kind.CONTAINER).GetPublicKeys(
        pb.GetPublicKeysRequest(parent="towns/town-1")
    )

    assert registry.tokens.verifier().jwks() == json.loads(reply.jwks_json)
    assert parse_jwks(reply.jwks_json.encode(), "the answer")
    assert "d" not in json.loads(reply.jwks_json)["keys"][0]

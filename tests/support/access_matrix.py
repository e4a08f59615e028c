"""Every credential on every method, against what the protos' comments say.

The handlers behind are stubs that say OK to everything, so an answer tells of the
policy alone; the servers are real ones, with the interceptors that production has.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import grpc
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from services.chassis.auth import Kind, Rule
from services.chassis.errors import ServiceError
from tests.support.grpc_server import running
from tests.support.tokens import (
    AGENT,
    FOREIGN_TOWN,
    OTHER_AGENT,
    TOWN,
    Tokens,
    revocations,
)

# An agent of another rig has an id of its own: rigs are no part of names over gRPC.
OWN, OTHER, FOREIGN = (TOWN, AGENT), (TOWN, OTHER_AGENT), (FOREIGN_TOWN, AGENT)
_CARRIERS: Final = ("agent", "snapshot", "header", "instance")


@dataclass(frozen=True, slots=True)
class Method:
    """One method, and who may call it as its comment says."""

    path: str
    descriptor: MethodDescriptor
    kinds: frozenset[Kind]
    # Takes a container's token that has expired just now.
    grace: bool

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Credential:
    """How to make it, whose it is (None: nobody's), and what it is refused for."""

    make: Callable[[Tokens], str | None]
    kind: Kind | None = None
    refusal: str = ""


CREDENTIALS: Final[Mapping[str, Credential]] = {
    "none": Credential(lambda tokens: None, refusal="TOKEN_MISSING"),
    "garbage": Credential(lambda tokens: "garbage", refusal="TOKEN_INVALID"),
    "expired": Credential(lambda tokens: tokens.expired(), refusal="TOKEN_EXPIRED"),
    "foreign key": Credential(
        lambda tokens: tokens.foreign_key(), refusal="TOKEN_INVALID"
    ),
    "stolen kid": Credential(
        lambda tokens: tokens.foreign_key_known_kid(), refusal="TOKEN_INVALID"
    ),
    "wrong audience": Credential(
        lambda tokens: tokens.wrong_audience(), refusal="TOKEN_INVALID"
    ),
    "alg none": Credential(
        lambda tokens: tokens.algorithm_none(), refusal="TOKEN_INVALID"
    ),
    "oversized": Credential(lambda tokens: tokens.oversized(), refusal="TOKEN_INVALID"),
    "revoked": Credential(lambda tokens: tokens.revoked(), refusal="TOKEN_REVOKED"),
    "container": Credential(lambda tokens: tokens.container(), Kind.CONTAINER),
    "agent": Credential(lambda tokens: tokens.agent(), Kind.AGENT),
    "agent other rig": Credential(lambda tokens: tokens.agent(rig="rig-2"), Kind.AGENT),
    "user": Credential(lambda tokens: tokens.user(), Kind.USER),
    "operator": Credential(lambda tokens: tokens.operator(TOWN), Kind.OPERATOR),
    "service": Credential(lambda tokens: tokens.service(TOWN), Kind.SERVICE),
}
TARGETS: Final = {"own": OWN, "other agent": OTHER, "other town": FOREIGN}


def methods_of(module: ModuleType) -> list[Method]:
    """The methods of a proto module's one service, in order."""
    (service,) = module.DESCRIPTOR.services_by_name.values()
    text = (
        Path(str(module.__file__))
        .with_name(Path(module.DESCRIPTOR.name).name)
        .read_text("utf-8")
    )
    return [_method(service.full_name, method, text) for method in service.methods]


def _method(service: str, method: MethodDescriptor, text: str) -> Method:
    comment = text.partition(f"  rpc {method.name}(")[0].rpartition("\n\n")[2]
    sentence = re.search(r"Caller: (.*?)\.", comment, re.DOTALL)
    assert sentence is not None, f"{method.name} does not say who may call it"
    words = re.findall(r"container|agent|user|operator|service", sentence[1])
    return Method(
        f"/{service}/{method.name}",
        method,
        frozenset(map(Kind, words)),
        "expired" in sentence[1],
    )


def expected(method: Method, credential: Credential, target: tuple[str, str]) -> str:
    """The reason of the refusal, or OK."""
    if credential.refusal == "TOKEN_EXPIRED" and method.grace:
        credential = Credential(credential.make, Kind.CONTAINER)
    if credential.refusal:
        return credential.refusal
    if credential.kind not in method.kinds:
        return "ROLE_INSUFFICIENT"
    if target == FOREIGN:
        return "TOWN_FOREIGN"
    if credential.kind is Kind.AGENT and target == OTHER:
        return "AGENT_FOREIGN"
    return "OK"


Answers = dict[tuple[str, str, str], str]


async def differences(
    methods: list[Method], policy: Mapping[str, Rule], tokens: Tokens
) -> Answers:
    """What a server with this policy answers otherwise than the comments say, by
    method, credential and target."""
    found: Answers = {}
    async with _serving(methods, policy, tokens) as channel:
        for method in methods:
            for who, credential in CREDENTIALS.items():
                token = credential.make(tokens)
                for what, target in TARGETS.items():
                    answer = await _ask(channel, method, token, target)
                    if answer != expected(method, credential, target):
                        found[method.name, who, what] = answer
    return found


@asynccontextmanager
async def _serving(
    methods: list[Method], policy: Mapping[str, Rule], tokens: Tokens
) -> AsyncIterator[grpc.aio.Channel]:
    by_service: dict[str, dict[str, Any]] = {}
    for method in methods:
        service = method.descriptor.containing_service.full_name
        by_service.setdefault(service, {})[method.name] = _stub(method)

    def add(server: grpc.aio.Server) -> None:
        for service, handlers in by_service.items():
            handler = grpc.method_handlers_generic_handler(service, handlers)
            server.add_generic_rpc_handlers((handler,))

    verifier = tokens.verifier(revocations=revocations())
    async with running(add, policy, verifier) as server:
        yield server.bare_channel()


def _stub(method: Method) -> Any:
    """A handler that has an answer for everybody who gets so far."""
    asked = GetMessageClass(method.descriptor.input_type)
    answer = GetMessageClass(method.descriptor.output_type)

    async def one(_: Any, __: Any) -> Any:
        return answer()

    async def many(_: Any, __: Any) -> AsyncIterator[Any]:
        yield answer()

    make, handle = _shape(method)
    return make(
        many if handle else one,
        request_deserializer=asked.FromString,
        response_serializer=answer.SerializeToString,
    )


def _shape(method: Method) -> tuple[Any, bool]:
    """How gRPC makes the handler, and whether it sends many."""
    sends = method.descriptor.server_streaming
    takes = "stream" if method.descriptor.client_streaming else "unary"
    name = f"{takes}_{'stream' if sends else 'unary'}_rpc_method_handler"
    return getattr(grpc, name), sends


async def _ask(
    channel: grpc.aio.Channel,
    method: Method,
    token: str | None,
    target: tuple[str, str],
) -> str:
    request = about(method, *target)
    takes = "stream" if method.descriptor.client_streaming else "unary"
    sends = "stream" if method.descriptor.server_streaming else "unary"
    call = getattr(channel, f"{takes}_{sends}")(method.path)
    metadata = (("authorization", f"Bearer {token}"),) if token is not None else ()
    try:
        raw = request.SerializeToString()
        given = call(iter([raw]) if takes == "stream" else raw, metadata=metadata)
        if sends == "stream":
            async for _ in given:
                pass
        else:
            await given
    except grpc.RpcError as error:
        return ServiceError.from_rpc(error).reason.name
    return "OK"


def about(method: Method, town: str, agent: str) -> Any:
    """A request about an agent, whichever field it is that says so."""
    request = GetMessageClass(method.descriptor.input_type)()
    assert _name(request, f"towns/{town}/agents/{agent}"), method.name
    return request


def _name(message: Any, name: str) -> bool:
    fields = message.DESCRIPTOR.fields_by_name
    for field in ("name", "parent", *_CARRIERS):
        kind = fields[field].type if field in fields else None
        if kind == FieldDescriptor.TYPE_STRING:
            setattr(message, field, name)
            return True
        if kind == FieldDescriptor.TYPE_MESSAGE:
            return _name(getattr(message, field), name)
    return False

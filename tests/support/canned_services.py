"""All three services on one port, with answers that the test has written down.

For clients: what they sent is in `requests`; what they are told is in `answers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_status import rpc_status

from services.chassis.errors import ServiceError, to_status
from townkeeper.registry.v1 import registry_pb2, resources_pb2
from townkeeper.snapshots.v1 import snapshots_pb2
from townkeeper.supervisor.v1 import supervisor_pb2

_FILES = (registry_pb2, snapshots_pb2, supervisor_pb2)
# One message, or several for a stream or for one call after another, or a refusal; the
# last of a stream may be one too.
Answer = Message | ServiceError | Sequence[Message | ServiceError]


class CannedServices(grpc.GenericRpcHandler):
    """Answers by method name; a method without an answer is UNIMPLEMENTED."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Callable[[Any], Answer]] = {}
        self.requests: list[Message] = []
        self.authorization = ""
        self._asked: dict[str, int] = {}
        self._methods = {
            f"/{service.full_name}/{method.name}": method
            for file in _FILES
            for service in file.DESCRIPTOR.services_by_name.values()
            for method in service.methods
        }
        self._server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[self])
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        # Whoever asks which supervisor to call is told: this one.
        self.answers["ResolveAgent"] = registry_pb2.ResolveAgentResponse(
            instance=resources_pb2.Instance(address=self.address), holds_lease=True
        )

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop(None).wait(5)

    def asked(self, kind: type[Any]) -> Any:
        """The last request of that type."""
        return next(one for one in reversed(self.requests) if isinstance(one, kind))

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = self._methods.get(details.method)
        if method is None:
            return None
        metadata = dict(details.invocation_metadata)
        self.authorization = str(metadata.get("authorization", ""))
        make: Any = grpc.unary_unary_rpc_method_handler
        if method.server_streaming:
            make = grpc.unary_stream_rpc_method_handler
        elif method.client_streaming:
            make = grpc.stream_unary_rpc_method_handler

        def stream(request: Message, context: grpc.ServicerContext) -> Iterator[Any]:
            answer = self._answer(method.name, request, context)
            for one in [answer] if isinstance(answer, Message) else answer:
                yield one if isinstance(one, Message) else _refuse(context, one)

        def unary(request: Message, context: grpc.ServicerContext) -> Message:
            answer = self._answer(method.name, request, context)
            if isinstance(answer, Message):
                return answer
            turn = self._asked[method.name] = self._asked.get(method.name, -1) + 1
            found = answer[min(turn, len(answer) - 1)]
            return found if isinstance(found, Message) else _refuse(context, found)

        def collect(
            requests: Iterator[Message], context: grpc.ServicerContext
        ) -> Message:
            *earlier, last = requests
            self.requests += earlier
            return unary(last, context)

        serve: Any = stream if method.server_streaming else unary
        return make(
            collect if method.client_streaming else serve,
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def _answer(
        self, name: str, request: Message, context: grpc.ServicerContext
    ) -> Message | Sequence[Message | ServiceError]:
        self.requests.append(request)
        answer = self.answers.get(name)
        if callable(answer):
            answer = answer(request)
        if answer is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"no answer for {name}")
        if isinstance(answer, ServiceError):
            return _refuse(context, answer)
        assert answer is not None, "aborted above"
        return answer


def _refuse(context: grpc.ServicerContext, error: ServiceError) -> Message:
    context.abort_with_status(rpc_status.to_status(to_status(error)))
    raise AssertionError("aborted above")

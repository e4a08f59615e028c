"""One table of reasons: in the contract, in the code, on the wire."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import (
    MESSAGE_BYTES_MAX,
    METADATA_BYTES_MAX,
    Reason,
    ServiceError,
    rpc_errors,
    to_status,
)
from townkeeper.errors.v1 import errors_pb2

PROTO = Path(errors_pb2.__file__).with_name("errors.proto")
PREFIX = "REASON_"
# What HTTP clients of the original expect, or what HTTP has its own word for.
UNUSUAL_HTTP = {
    "DRAINING": 503,
    "START_FAILED": 500,
    "SNAPSHOT_TOO_LARGE": 413,
    "STORAGE_FULL": 507,
    "OFFSET_MISMATCH": 416,
}


class Failure(grpc.RpcError):
    """What a client catches, as both of gRPC's own classes look."""

    def __init__(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing: tuple[tuple[str, bytes], ...] = (),
    ) -> None:
        self._parts = code, details, trailing

    def code(self) -> grpc.StatusCode:
        return self._parts[0]

    def details(self) -> str:
        return self._parts[1]

    def trailing_metadata(self) -> Any:
        return self._parts[2]


def over_the_wire(error: ServiceError) -> ServiceError:
    raw = to_status(error, "registry.townkeeper").SerializeToString()
    trailing = (("grpc-status-details-bin", raw),)
    return ServiceError.from_rpc(Failure(error.code, error.message, trailing))


class TestTable:
    def test_contract_and_code_name_the_same_reasons(self) -> None:
        """A reason is in the proto, in the enum, or it is nowhere."""
        named = set(errors_pb2.Reason.keys()) - {"REASON_UNSPECIFIED"}

        assert {name.removeprefix(PREFIX) for name in named} == set(Reason.__members__)

    @pytest.mark.parametrize("reason", Reason)
    def test_contract_and_code_name_the_same_status(self, reason: Reason) -> None:
        """The status that a reason's comment promises is the one it comes with."""
        comment = re.search(
            rf"// `([A-Z_]+)`:[^=]*\n  {PREFIX}{reason.name} = ", PROTO.read_text()
        )

        assert comment is not None
        assert comment[1] == reason.code.name

    @pytest.mark.parametrize("reason", Reason)
    def test_a_reason_is_its_name(self, reason: Reason) -> None:
        """Written, logged, compared and looked up by one spelling."""
        assert (reason.value, str(reason)) == (reason.name, reason.name)
        assert Reason[reason.name] is reason

    @pytest.mark.parametrize("reason", Reason)
    def test_every_reason_has_an_http_status(self, reason: Reason) -> None:
        """The gateway never has to guess."""
        assert 400 <= reason.http <= 599

    @pytest.mark.parametrize(("name", "http"), UNUSUAL_HTTP.items())
    def test_unusual_http_statuses(self, name: str, http: int) -> None:
        """Where HTTP says it better than the table of status codes."""
        assert http == Reason[name].http

    @pytest.mark.parametrize(
        ("name", "code"),
        [
            ("LEASE_FENCED", "FAILED_PRECONDITION"),
            ("GENERATION_MISMATCH", "ABORTED"),
            ("ETAG_MISMATCH", "ABORTED"),
        ],
    )
    def test_lost_races_are_conflicts(self, name: str, code: str) -> None:
        """A stale writer hears 409 over HTTP, whichever way it lost."""
        assert Reason[name].code.name == code
        assert Reason[name].http == 409

    def test_not_served_yet_is_unimplemented(self) -> None:
        """A promised method answers with gRPC's own code for it."""
        assert Reason.NOT_SERVED_YET.code is grpc.StatusCode.UNIMPLEMENTED


class TestServiceError:
    def test_metadata_is_text(self) -> None:
        """Whatever is given is written out; what is absent stays away."""
        error = ServiceError(Reason.LEASE_HELD, "cannot", epoch=7, holder=None)

        assert error.metadata == {"epoch": "7"}

    def test_metadata_may_be_called_anything(self) -> None:
        """Names of our own arguments are free for metadata as well."""
        odd = {"reason": "r", "message": "m", "self": "s"}

        assert ServiceError(Reason.INTERNAL, "cannot", **odd).metadata == odd

    def test_survives_pickling(self) -> None:
        """Errors cross process pools whole."""
        error = pickle.loads(pickle.dumps(ServiceError(Reason.DRAINING, "cannot", a=1)))

        assert (error.reason, error.message) == (Reason.DRAINING, "cannot")
        assert error.metadata == {"a": "1"}


class TestWire:
    @pytest.mark.parametrize("reason", Reason)
    def test_there_and_back(self, reason: Reason) -> None:
        """The client catches what the server raised."""
        found = over_the_wire(ServiceError(reason, "cannot", key="value"))

        assert (found.reason, found.message) == (reason, "cannot")
        assert found.metadata == {"key": "value"}

    def test_the_domain_is_the_services(self) -> None:
        """Standard clients see which service spoke."""
        info = error_details_pb2.ErrorInfo()
        status = to_status(ServiceError(Reason.INTERNAL, "cannot"), "x.townkeeper")
        status.details[0].Unpack(info)

        assert info.domain == "x.townkeeper"

    @given(
        st.text(max_size=5000),
        st.dictionaries(
            st.text(st.characters(codec="ascii"), min_size=1, max_size=99),
            st.text(max_size=3000),
            max_size=20,
        ),
    )
    def test_fits_into_grpc_metadata(self, text: str, metadata: dict[str, str]) -> None:
        """However much an error says, the client gets its status and reason."""
        error = ServiceError(Reason.INTERNAL, text, **metadata)
        raw = to_status(error).SerializeToString()

        assert over_the_wire(error).reason is Reason.INTERNAL
        assert len(raw) <= MESSAGE_BYTES_MAX + 2 * METADATA_BYTES_MAX
        # Base64, and the text once more with three bytes for each odd one.
        assert len(raw) * 4 / 3 + MESSAGE_BYTES_MAX * 3 < 8 * 1024

    @pytest.mark.parametrize("letter", ["x", "\N{GREEK SMALL LETTER ALPHA}"])
    def test_is_cut_where_it_says_too_much(self, letter: str) -> None:
        """A text of megabytes still arrives as a status."""
        error = ServiceError(Reason.INTERNAL, letter * 10**6, key=letter * 10**6)

        found = over_the_wire(error)

        assert 0 < len(found.message.encode()) <= MESSAGE_BYTES_MAX
        assert 0 < len(found.metadata["key"].encode()) <= METADATA_BYTES_MAX

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            (grpc.StatusCode.UNAVAILABLE, Reason.SERVICE_UNAVAILABLE),
            (grpc.StatusCode.DEADLINE_EXCEEDED, Reason.DEADLINE),
            (grpc.StatusCode.UNIMPLEMENTED, Reason.NOT_SERVED_YET),
            (grpc.StatusCode.UNAUTHENTICATED, Reason.TOKEN_INVALID),
            (grpc.StatusCode.UNKNOWN, Reason.INTERNAL),
        ],
    )
    def test_without_details_the_code_decides(
        self, code: grpc.StatusCode, reason: Reason
    ) -> None:
        """Proxies and gRPC itself fail calls without our details."""
        error = ServiceError.from_rpc(Failure(code, "said elsewhere"))

        assert (error.reason, error.message) == (reason, "said elsewhere")

    @pytest.mark.parametrize("raw", [b"", b"\xff\xff", b"\x08\x05"])
    def test_broken_details_fall_back_to_the_code(self, raw: bytes) -> None:
        """What cannot be decoded is passed over."""
        trailing = (("grpc-status-details-bin", raw),)
        failure = Failure(grpc.StatusCode.UNAVAILABLE, "x", trailing)

        assert ServiceError.from_rpc(failure).reason is Reason.SERVICE_UNAVAILABLE

    def test_a_reason_of_the_future_falls_back_to_the_code(self) -> None:
        """An old client judges a new reason by its status code."""
        status = to_status(ServiceError(Reason.INTERNAL, "x"))
        info = error_details_pb2.ErrorInfo(reason="NOT_THOUGHT_OF_YET")
        status.details[0].Pack(info)
        trailing = (("grpc-status-details-bin", status.SerializeToString()),)
        failure = Failure(grpc.StatusCode.UNAVAILABLE, "x", trailing)

        assert ServiceError.from_rpc(failure).reason is Reason.SERVICE_UNAVAILABLE

    def test_rpc_errors_lets_others_pass(self) -> None:
        """Only failures of calls are translated."""
        with pytest.raises(KeyError), rpc_errors():
            raise KeyError

    def test_rpc_errors_keeps_the_cause(self) -> None:
        """The failure of the call stays visible behind the error."""
        failure = Failure(grpc.StatusCode.UNAVAILABLE)

        with pytest.raises(ServiceError) as raised, rpc_errors():
            raise failure

        assert raised.value.__cause__ is failure

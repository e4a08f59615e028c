"""Failures of calls → what HTTP clients are told."""

from __future__ import annotations

import pytest

from services.chassis.errors import Reason, ServiceError
from services.gateway.problems import Issue, Problem, from_service, json_path


@pytest.mark.parametrize("reason", Reason, ids=str)
def test_every_reason_has_its_status(reason: Reason):
    """The one table is that of the errors themselves."""
    problem = from_service(ServiceError(reason, "cannot x"))

    assert (reason.http, reason.name) == (problem.status, problem.reason)
    assert problem.error


def test_a_lost_condition_of_the_client_is_412():
    """Without one, it was a race among the services: 409."""
    error = ServiceError(Reason.GENERATION_MISMATCH, "cannot", generation=7)

    assert 412 == from_service(error, conditional=True).status
    assert 409 == from_service(error).status
    assert {"generation": 7} == from_service(error).fields


def test_a_conflict_names_the_holder_once():
    """In the text and as a field."""
    named = ServiceError(Reason.LEASE_FENCED, "cannot: slot-1 has it", holder="slot-1")
    unnamed = ServiceError(Reason.LEASE_FENCED, "cannot", holder="slot-1", epoch=3)

    assert "cannot: slot-1 has it" == from_service(named).error
    assert "cannot; the holder is slot-1" == from_service(unnamed).error
    assert {"holder": "slot-1", "epoch": 3} == from_service(unnamed).fields


def test_what_grpc_says_itself_stays_inside():
    """Addresses of services are nobody's business."""
    error = ServiceError(Reason.SERVICE_UNAVAILABLE, "failed: ipv4:10.0.0.1:50051")

    problem = from_service(error)

    assert "10.0.0.1" not in problem.error
    assert {"retry-after": "1"} == problem.headers


def test_a_missing_token_asks_for_one():
    """As RFC 6750 wants it."""
    problem = from_service(ServiceError(Reason.TOKEN_EXPIRED, "cannot"))

    assert problem.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("field", "path"),
    [
        ("spec.git_url", ("gitUrl",)),
        ("git_url", ("gitUrl",)),
        ("spec.display_name", ("name",)),
        ("spec.env_vars.HOME", ("envVars", "HOME")),
        ("spec", ("spec",)),
        ("model", ("model",)),
        ("heartbeat.last_event_type", ("lastEventType",)),
        ("checkpoint.data_json", ("data",)),
        ("completion.reason", ("reason",)),
        ("event.type", ("event_type",)),
        ("nudge.text", ("message",)),
        ("nudge.source", ("source",)),
    ],
)
def test_fields_are_spelled_as_in_json(field: str, path: tuple[str, ...]):
    """Clients know no proto."""
    assert path == json_path(field)


def test_bodies_in_both_styles():
    """The worker's envelope, and the container's bare one."""
    problem = Problem(400, "no", issues=[Issue(("a", 1), "bad")], fields={"epoch": 1})
    bare = {"error": "no", "issues": [{"path": ["a", 1], "message": "bad"}], "epoch": 1}

    assert bare == problem.body(envelope=False)
    assert {"success": False, **bare} == problem.body(envelope=True)

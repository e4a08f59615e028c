"""deploy/base against the services: variables, ports, probes, time to stop."""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from services.chassis import server
from services.chassis.auth import Kind, Verifier
from services.chassis.keys import KeyRing
from services.chassis.settings import SettingsError, Variable, load, variables
from services.cli.runtimes import KILO
from tests.support import manifests
from tests.support.manifests import SERVICES

each_service = pytest.mark.parametrize("service", SERVICES)
each_grpc_service = pytest.mark.parametrize("service", SERVICES[:3])

# What a cluster puts where a manifest only refers to it.
REFERRED = {
    "POD_IP": "10.0.0.7",
    "TOWNKEEPER_INSTANCE": "supervisor-0",
    "TOWNKEEPER_REDIS_URL": "rediss://redis:6379/0",
    "GASTOWN_TOWN_ID": "town-1",
    "GASTOWN_CONTAINER_TOKEN": "a.b.c",
}


def settings_of(service: str) -> type[Any]:
    """The dataclass that the service's settings module is about."""
    module = importlib.import_module(f"services.{service}.settings")
    (found,) = (
        one
        for one in vars(module).values()
        if isinstance(one, type) and one.__module__ == module.__name__
    )
    return found


def known(service: str) -> dict[str, Variable]:
    return {one.name: one for one in variables(settings_of(service))}


def as_started(service: str, root: Path) -> Mapping[str, str]:
    """The environment that the process would see, its folders moved below `root`."""
    given: dict[str, str] = {}
    for name, value in manifests.environment(manifests.workload(service)).items():
        text = REFERRED[name] if value is None else value
        for earlier, meant in given.items():
            text = text.replace(f"$({earlier})", meant)
        for scheme in ("file://", ""):
            if text.startswith(f"{scheme}/"):
                text = f"{scheme}{root}{text.removeprefix(scheme)}"
                _make(name, Path(text.removeprefix(scheme)))
        given[name] = text
    return given


def _make(variable: str, path: Path) -> None:
    """A folder, or the file that the variable says it is."""
    folder = path.parent if variable.endswith("_FILE") else path
    folder.mkdir(parents=True, exist_ok=True)
    if folder != path:
        path.touch()


def listen_port(service: str) -> int:
    """The port that the service takes when nothing is said."""
    name = f"TOWNKEEPER_{service.upper()}_ADDR"
    return int(known(service)[name].default.rpartition(":")[2])


@each_service
def test_a_service_starts_with_what_its_manifest_says(
    service: str, tmp_path: Path
) -> None:
    """No variable is missing, and none is refused by its parser."""
    load(settings_of(service), as_started(service, tmp_path))


@each_service
def test_a_service_does_not_start_with_less(service: str, tmp_path: Path) -> None:
    """The test above can fail: without its variables, the service names them."""
    required = [one.name for one in known(service).values() if one.required]

    with pytest.raises(SettingsError) as refused:
        load(settings_of(service), {})

    assert required == [name for name in required if name in str(refused.value)]


@each_service
def test_a_manifest_sets_only_what_its_service_reads(service: str) -> None:
    """A variable that nobody reads is a misspelt one."""
    given = set(manifests.environment(manifests.workload(service)))
    built = manifests.image_variables(service)

    assert set() == given - manifests.POD_VARIABLES - known(service).keys()
    assert set() == built - known(service).keys()


@each_service
def test_a_service_listens_where_its_pod_says(service: str, tmp_path: Path) -> None:
    """The address given, the port named and the default are one number."""
    workload = manifests.workload(service)
    port, *others = manifests.container(workload)["ports"]
    given = as_started(service, tmp_path)
    addresses = [given[f"TOWNKEEPER_{service.upper()}_ADDR"]]
    if others:
        addresses.append(given["TOWNKEEPER_METRICS_ADDR"])

    named = [str(one["containerPort"]) for one in (port, *others)]
    assert named == [address.rpartition(":")[2] for address in addresses]
    assert listen_port(service) == port["containerPort"]


@each_service
def test_a_service_calls_others_where_they_are(service: str) -> None:
    """Each address names a Service of the base, and the port that it has."""
    own = (f"TOWNKEEPER_{service.upper()}_ADDR", "TOWNKEEPER_METRICS_ADDR")
    ports = {
        name: str(manifests.of_kind(name, "Service")["spec"]["ports"][0]["port"])
        for name in SERVICES
    }
    called = {
        tuple((value or "").split(":"))
        for name, value in manifests.environment(manifests.workload(service)).items()
        if name.endswith("_ADDR") and name not in own
    }

    assert called <= set(ports.items())


@each_grpc_service
def test_readiness_asks_for_the_service_by_name(service: str) -> None:
    """Ready means that the service can do its work; alive, that the process answers."""
    module = importlib.import_module(f"townkeeper.{service}.v1.{service}_pb2")
    (name,) = [one.full_name for one in module.DESCRIPTOR.services_by_name.values()]
    inside = manifests.container(manifests.workload(service))
    port = listen_port(service)

    assert {"port": port, "service": name} == inside["readinessProbe"]["grpc"]
    assert {"port": port} == inside["livenessProbe"]["grpc"]


def test_the_gateways_probes_are_routes_of_its_own() -> None:
    """Alive and ready are asked over HTTP, on paths that need no token."""
    routes = importlib.import_module("services.gateway.routes")
    answered = {
        one.pattern
        for one in routes.ROUTES
        if one.access == routes.ANYONE and one.method == "GET"
    }
    inside = manifests.container(manifests.workload("gateway"))
    probes = [inside[kind]["httpGet"] for kind in ("readinessProbe", "livenessProbe")]

    assert ["/readyz", "/healthz"] == [one["path"] for one in probes]
    assert {"/readyz", "/healthz"} <= answered
    assert {inside["ports"][0]["name"]} == {one["port"] for one in probes}


@each_service
def test_a_pod_has_time_to_stop(service: str) -> None:
    """Kubernetes kills what has not ended in time; ending in order takes this long."""
    stop_s = server.GRACE_S + server.FLUSH_S + server.STOP_LIMIT_S
    pod = manifests.pod(manifests.workload(service))

    assert pod["terminationGracePeriodSeconds"] >= 1.5 * stop_s


def test_the_supervisors_pod_has_time_for_its_drain() -> None:
    """For the whole budget that it has when nobody sets another, and its own end."""
    budget = known("supervisor")["TOWNKEEPER_DRAIN_BUDGET"]
    workload = manifests.workload("supervisor")
    stop_s = server.GRACE_S + server.FLUSH_S + server.STOP_LIMIT_S

    assert budget.name not in manifests.environment(workload)
    assert isinstance(budget.default, float)
    given_s = manifests.pod(workload)["terminationGracePeriodSeconds"]
    assert given_s >= budget.default + stop_s


async def test_the_keys_of_the_readme_prove_tokens(tmp_path: Path) -> None:
    """A pod that has only jwks.json believes what the private keys signed."""
    ring = KeyRing.create(tmp_path / "plane" / "keys")
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (mounted / "jwks.json").write_text(json.dumps(ring.jwks()), "utf-8")

    verifier = Verifier.from_directory(mounted)
    caller = await verifier.verify(ring.mint(Kind.CONTAINER, town="town-1"))
    await verifier.aclose()

    assert (Kind.CONTAINER, "town-1") == (caller.kind, caller.town)


def test_the_image_holds_the_kilo_that_we_test_with() -> None:
    """`townkeeper runtime install` and the image give an agent the same program."""
    assert f"\nARG KILO_VERSION={KILO.version}\n" in manifests.stage("kilo")

"""deploy/base by itself: hardened, whole, consistent, and true to the Dockerfile."""

import copy
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests.support import manifests
from tests.support.manifests import BASE, ROOT, SERVICES, Manifest

each_service = pytest.mark.parametrize("service", SERVICES)


def kustomization() -> dict[str, Any]:
    return yaml.safe_load((BASE / "kustomization.yaml").read_text("utf-8"))


@each_service
def test_a_file_reads_in_one_order(service: str) -> None:
    """Account, disk if any, workload, Service, budget: the same in every file."""
    order = ["ServiceAccount", "PersistentVolumeClaim", "Deployment", "StatefulSet"]
    order += ["Service", "PodDisruptionBudget"]
    kinds = [one["kind"] for one in manifests.load(service)]

    assert sorted(kinds, key=order.index) == kinds
    assert {"ServiceAccount", "Service", "PodDisruptionBudget"} <= set(kinds)


@each_service
def test_a_file_names_one_service_only(service: str) -> None:
    """Every object of a file carries the service's name, and its account."""
    documents = manifests.load(service)

    assert {service} == {one["metadata"]["name"] for one in documents}
    assert service == manifests.pod(manifests.workload(service))["serviceAccountName"]


@each_service
def test_a_container_has_no_more_than_it_needs(service: str) -> None:
    """No root, no writable root, no capability, no token, limits on both."""
    assert [] == list(manifests.unhardened(manifests.workload(service)))


@each_service
def test_labels_and_selectors_meet(service: str) -> None:
    """A selector that matches nothing fails silently in a cluster."""
    assert [] == list(manifests.bad_labels(manifests.load(service), service))


@each_service
def test_every_path_lies_on_a_volume(service: str) -> None:
    """The root is read-only: a path that is not mounted cannot be written."""
    assert [] == list(manifests.loose_mounts(manifests.workload(service)))


@each_service
def test_no_pod_can_sign(service: str) -> None:
    """Services check tokens and make none: whoever breaks in finds only public keys."""
    needed = manifests.references(manifests.workload(service))

    assert ("configmap", "townkeeper-jwks") in needed
    secrets = {name for kind, name in needed if kind == "secret"}
    allowed = {"townkeeper-redis", "townkeeper-service", "townkeeper-town"}
    if service == "registry":
        allowed.add("townkeeper-sealing")
    assert secrets <= allowed


def test_the_readme_names_whatever_must_be_there_first() -> None:
    """Each Secret and ConfigMap that the base does not make is in the README."""
    text = (ROOT / "deploy" / "README.md").read_text("utf-8")
    needed = {
        name
        for service in SERVICES
        for kind, name in manifests.references(manifests.workload(service))
        if kind != "claim"
    }

    assert needed == {name for name in needed if f"`{name}`" in text}
    assert {"townkeeper-redis", "townkeeper-jwks"} < needed


def test_the_supervisors_disk_dies_with_the_pod() -> None:
    """What an agent writes is saved through the snapshots service, not on a claim."""
    workload = manifests.workload("supervisor")

    assert "StatefulSet" == workload["kind"]
    assert "volumeClaimTemplates" not in workload["spec"]
    assert "claim" not in {kind for kind, _ in manifests.references(workload)}


def test_snapshots_never_runs_twice_on_its_disk() -> None:
    """The file store takes one writer: the old pod ends before the next starts."""
    spec = manifests.workload("snapshots")["spec"]

    assert (1, {"type": "Recreate"}) == (spec["replicas"], spec["strategy"])


@each_service
def test_a_budget_lets_nodes_be_drained(service: str) -> None:
    """`minAvailable` with one replica would hold a node for ever."""
    spec = manifests.of_kind(service, "PodDisruptionBudget")["spec"]

    assert 1 == spec["maxUnavailable"]


def test_the_kustomization_lists_every_file() -> None:
    """A file that is not listed is not deployed."""
    files = {path.name for path in BASE.glob("*.yaml")} - {"kustomization.yaml"}

    assert files == set(kustomization()["resources"])


@each_service
def test_an_image_is_pinned_to_this_version(service: str) -> None:
    """Workload, kustomization and package agree, and none says `latest`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    version = project["project"]["version"]
    image = manifests.container(manifests.workload(service))["image"]
    pinned = {row["name"]: row["newTag"] for row in kustomization()["images"]}

    assert f"townkeeper-{service}:{version}" == image
    assert version == pinned[f"townkeeper-{service}"]


@each_service
def test_an_image_runs_its_service_and_no_root(service: str) -> None:
    """Each target serves what it is named after, as the user the pod expects."""
    lines = manifests.stage(service).splitlines()
    context = manifests.pod(manifests.workload(service))["securityContext"]
    users = [line.split()[1] for line in lines if line.startswith("USER ")]

    assert f"{context['runAsUser']}:{context['runAsGroup']}" == users[-1]
    assert f'ENTRYPOINT ["townkeeper", "serve", "{service}"]' == lines[-1].strip()


@each_service
def test_an_image_opens_the_port_that_the_pod_names(service: str) -> None:
    """EXPOSE, containerPort and the Service's target are one number."""
    port = manifests.container(manifests.workload(service))["ports"][0]
    (target,) = manifests.of_kind(service, "Service")["spec"]["ports"]

    assert f"\nEXPOSE {port['containerPort']}\n" in manifests.stage(service)
    assert port["name"] == target["targetPort"]


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kustomize_builds_the_base() -> None:
    """The base is what `kubectl apply -k` reads."""
    built = subprocess.run(
        ["kubectl", "kustomize", str(BASE)], capture_output=True, text=True
    )
    documents = list(yaml.safe_load_all(built.stdout))

    assert (0, "") == (built.returncode, built.stderr)
    assert sum(len(manifests.load(service)) for service in SERVICES) == len(documents)


def spoil(change: Callable[[Manifest], None]) -> Manifest:
    """The registry's workload with one thing wrong."""
    workload = copy.deepcopy(manifests.workload("registry"))
    change(workload)
    return workload


@pytest.mark.parametrize(
    ("rule", "change", "complaint"),
    [
        pytest.param(
            manifests.unhardened,
            lambda one: manifests.pod(one)["securityContext"].pop("runAsNonRoot"),
            "runAsNonRoot",
            id="may run as root",
        ),
        pytest.param(
            manifests.unhardened,
            lambda one: manifests.container(one)["securityContext"].update(
                capabilities={"drop": ["ALL"], "add": ["NET_ADMIN"]}
            ),
            "capabilities",
            id="one capability more",
        ),
        pytest.param(
            manifests.unhardened,
            lambda one: manifests.pod(one).update(hostPID=True),
            "host namespaces",
            id="sees the host's processes",
        ),
        pytest.param(
            manifests.unhardened,
            lambda one: manifests.container(one)["resources"]["limits"].pop("memory"),
            "limits of memory",
            id="no memory limit",
        ),
        pytest.param(
            manifests.loose_mounts,
            lambda one: manifests.pod(one)["volumes"].pop(),
            "mount tmp has no volume",
            id="a mount of nothing",
        ),
        pytest.param(
            manifests.loose_mounts,
            lambda one: manifests.container(one)["volumeMounts"].pop(),
            "volume tmp is not mounted",
            id="a volume for nobody",
        ),
        pytest.param(
            manifests.loose_mounts,
            lambda one: manifests.container(one)["env"].append(
                {"name": "TOWNKEEPER_BLOB_URL", "value": "file:///srv/blobs"}
            ),
            "TOWNKEEPER_BLOB_URL lies on no volume: the root is read-only",
            id="blobs on the read-only root",
        ),
        pytest.param(
            lambda one: manifests.bad_labels([one], "registry"),
            lambda one: one["spec"]["selector"]["matchLabels"].update(tier="one"),
            "selector of Deployment",
            id="a selector that matches no pod",
        ),
    ],
)
def test_a_rule_can_fail(
    rule: Callable[[Manifest], Iterator[str]],
    change: Callable[[Manifest], None],
    complaint: str,
) -> None:
    """A rule that finds nothing in a spoiled manifest would find nothing anywhere."""
    assert [complaint] == list(rule(spoil(change)))

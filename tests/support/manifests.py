"""deploy/ as Python values, and the rules that a workload must keep.

Rules take a manifest and give complaints, so that a test can show each one a manifest
with a fault in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
BASE: Final = ROOT / "deploy" / "base"
DOCKERFILE: Final = ROOT / "deploy" / "Dockerfile"

SERVICES: Final = ("registry", "snapshots", "supervisor", "gateway")
WORKLOADS: Final = frozenset({"Deployment", "StatefulSet"})

# Set for the pod's own use: other variables refer to them.
POD_VARIABLES: Final = frozenset({"POD_IP"})

Manifest = dict[str, Any]


def load(service: str) -> list[Manifest]:
    """The documents of one service's file, in order."""
    text = (BASE / f"{service}.yaml").read_text("utf-8")
    return [document for document in yaml.safe_load_all(text) if document]


def workload(service: str) -> Manifest:
    """The Deployment or StatefulSet of one service."""
    found = [one for one in load(service) if one["kind"] in WORKLOADS]
    assert len(found) == 1, f"{service}.yaml has {len(found)} workloads, not one"
    return found[0]


def of_kind(service: str, kind: str) -> Manifest:
    """The one document of this kind in a service's file."""
    found = [one for one in load(service) if one["kind"] == kind]
    assert len(found) == 1, f"{service}.yaml has {len(found)} {kind}, not one"
    return found[0]


def pod(manifest: Manifest) -> Manifest:
    """The pod that a workload starts."""
    return manifest["spec"]["template"]["spec"]


def container(manifest: Manifest) -> Manifest:
    """The one container of a workload."""
    (found,) = pod(manifest)["containers"]
    return found


def environment(manifest: Manifest) -> dict[str, str | None]:
    """What the container is told: name to value, None where a reference gives it."""
    return {row["name"]: row.get("value") for row in container(manifest)["env"]}


def unhardened(manifest: Manifest) -> Iterator[str]:
    """Whatever leaves the container more than it needs."""
    spec, inside = pod(manifest), container(manifest)
    context = spec.get("securityContext", {})
    own = inside.get("securityContext", {})
    wanted = {
        "runAsNonRoot": context.get("runAsNonRoot") is True,
        "runAsUser": context.get("runAsUser", 0) > 0,
        "seccompProfile": context.get("seccompProfile") == {"type": "RuntimeDefault"},
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
        "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
        "capabilities": own.get("capabilities") == {"drop": ["ALL"]},
        "automountServiceAccountToken": spec.get("automountServiceAccountToken")
        is False,
        "enableServiceLinks": spec.get("enableServiceLinks") is False,
        "host namespaces": not any(
            spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")
        ),
    }
    yield from (what for what, kept in wanted.items() if not kept)
    for kind in ("requests", "limits"):
        given = inside.get("resources", {}).get(kind, {})
        yield from (f"{kind} of {what}" for what in {"cpu", "memory"} - given.keys())


def bad_labels(documents: Iterable[Manifest], service: str) -> Iterator[str]:
    """Labels and selectors that do not meet."""
    wanted = {
        "app.kubernetes.io/name": service,
        "app.kubernetes.io/part-of": "townkeeper",
    }
    for one in documents:
        kind, spec = one["kind"], one.get("spec", {})
        if one["metadata"].get("labels") != wanted:
            yield f"labels of {kind}"
        selector = spec.get("selector", {})
        if kind in WORKLOADS and spec["template"]["metadata"]["labels"] != wanted:
            yield f"labels of the pods of {kind}"
        if kind in WORKLOADS | {"PodDisruptionBudget"}:
            selector = selector.get("matchLabels", {})
        if kind in WORKLOADS | {"PodDisruptionBudget", "Service"} and (
            not selector or not selector.items() <= wanted.items()
        ):
            yield f"selector of {kind}"


def loose_mounts(manifest: Manifest) -> Iterator[str]:
    """Mounts without a volume, volumes without a mount, paths on neither."""
    volumes = {one["name"] for one in pod(manifest).get("volumes", [])}
    mounts = container(manifest).get("volumeMounts", [])
    named = {one["name"] for one in mounts}
    yield from (f"mount {name} has no volume" for name in sorted(named - volumes))
    yield from (f"volume {name} is not mounted" for name in sorted(volumes - named))
    roots = [PurePosixPath(one["mountPath"]) for one in mounts]
    for name, value in environment(manifest).items():
        path = PurePosixPath((value or "").removeprefix("file://"))
        if path.is_absolute() and not any(path.is_relative_to(root) for root in roots):
            yield f"{name} lies on no volume: the root is read-only"


def references(manifest: Manifest) -> set[tuple[str, str]]:
    """Every Secret, ConfigMap and claim a workload needs to be there: kind, name."""
    found = set()
    for volume in pod(manifest).get("volumes", []):
        if "secret" in volume:
            found.add(("secret", volume["secret"]["secretName"]))
        if "configMap" in volume:
            found.add(("configmap", volume["configMap"]["name"]))
        if "persistentVolumeClaim" in volume:
            found.add(("claim", volume["persistentVolumeClaim"]["claimName"]))
    for row in container(manifest)["env"]:
        source = row.get("valueFrom", {})
        if "secretKeyRef" in source:
            found.add(("secret", source["secretKeyRef"]["name"]))
        if "configMapKeyRef" in source:
            found.add(("configmap", source["configMapKeyRef"]["name"]))
    return found


def stage(target: str, text: str | None = None) -> str:
    """The Dockerfile's instructions for one target, those it stands on included."""
    text = DOCKERFILE.read_text("utf-8") if text is None else text
    text = re.sub(r"(?m)^(#.*)?\n", "", text)
    stages = re.split(r"(?m)^(?=FROM )", text)[1:]
    for one in stages:
        first = one.splitlines()[0].split()
        if first[-1] == target:
            names = [other.splitlines()[0].split()[-1] for other in stages]
            below = first[1] if first[1] in names else None
            return (stage(below, text) if below else "") + one
    raise AssertionError(f"the Dockerfile has no target {target}")


def image_variables(target: str) -> set[str]:
    """Our own variables that the image of a target sets."""
    return set(re.findall(r"\b(TOWNKEEPER_\w+)=", stage(target)))

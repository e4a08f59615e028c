"""`townkeeper serve`: single services by environment, as containers run them."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from services.chassis.channels import StaticToken, open_sync_channel
from tests.support.plane import COMMAND, PlaneProcess
from tests.support.waiting import wait_until_sync
from townkeeper.supervisor.v1 import supervisor_pb2
from townkeeper.supervisor.v1.supervisor_pb2_grpc import SupervisorServiceStub

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def environment(plane: PlaneProcess, folder: Path) -> dict[str, str]:
    """What a further supervisor needs to join the town of a plane."""
    found = plane.endpoints
    return {
        "PATH": os.environ["PATH"],
        "TOWNKEEPER_REGISTRY_ADDR": found.registry,
        "TOWNKEEPER_SNAPSHOTS_ADDR": found.snapshots,
        "TOWNKEEPER_SUPERVISOR_ADDR": "127.0.0.1:0",
        "TOWNKEEPER_DATA_DIR": str(folder),
        "TOWNKEEPER_INSTANCE": "second",
        "GASTOWN_TOWN_ID": plane.town,
        "GASTOWN_CONTAINER_TOKEN": plane.token("container"),
    }


def instances(plane: PlaneProcess) -> dict[str, str]:
    """Instance → where it can be called."""
    listed = json.loads(plane.run("instances", "list", "--json"))
    return {one["name"].rpartition("/")[2]: one["address"] for one in listed}


def test_a_further_supervisor_joins_the_town(
    shared_plane: PlaneProcess, tmp_path: Path
) -> None:
    """It listens on a free port, says where, registers that, and leaves on SIGTERM."""
    with subprocess.Popen(
        [*COMMAND, "serve", "supervisor"],
        env=environment(shared_plane, tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    ) as supervisor:
        assert supervisor.stdout is not None
        ready = supervisor.stdout.readline()
        assert ready.startswith("ready grpc://127.0.0.1:")
        address = ready.removeprefix("ready grpc://").strip()

        assert {"embedded", "second"} == set(instances(shared_plane))
        assert address == instances(shared_plane)["second"]
        # It was given no keys: it verifies callers by those the registry has.
        with open_sync_channel(
            address, StaticToken(shared_plane.token("operator"))
        ) as channel:
            request = supervisor_pb2.ListRunsRequest(
                parent=f"towns/{shared_plane.town}"
            )
            assert [] == list(SupervisorServiceStub(channel).ListRuns(request).runs)

        supervisor.send_signal(signal.SIGTERM)
        assert 0 == supervisor.wait(30)
    wait_until_sync(lambda: "second" not in instances(shared_plane), limit_s=20)


@pytest.mark.parametrize(
    ("service", "variables"),
    [
        pytest.param("registry", ["TOWNKEEPER_REDIS_URL"], id="registry"),
        pytest.param(
            "snapshots", ["TOWNKEEPER_REDIS_URL", "TOWNKEEPER_BLOB_URL"], id="snapshots"
        ),
        pytest.param(
            "supervisor", ["TOWNKEEPER_DATA_DIR", "GASTOWN_TOWN_ID"], id="supervisor"
        ),
        pytest.param("gateway", ["TOWNKEEPER_REGISTRY_ADDR"], id="gateway"),
    ],
)
def test_a_service_that_is_told_nothing_says_what_it_needs(
    service: str, variables: list[str]
) -> None:
    """One message names every variable that is missing; nothing is listened on."""
    done = subprocess.run(
        [*COMMAND, "serve", service],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (1, "") == (done.returncode, done.stdout)
    assert [] == [name for name in variables if name not in done.stderr]

"""The five programs of an embedded plane: command lines, environments, addresses."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

from services.cli import embedded_valkey
from services.cli.child import Program
from services.cli.layout import DataDir, Endpoints, Marking, write_private
from services.cli.ownership import MARK_VARIABLE, stop_limit_s
from services.cli.problems import Problem

INSTANCE: Final = "embedded"
# Tokens that are minted at each start of a service; they must outlive that.
TOKEN_TTL_S: Final = 365 * 24 * 3600.0
# What of our own environment would contradict what `up` decides.
_OURS: Final = (
    "TOWNKEEPER_REDIS_",
    "TOWNKEEPER_TLS_",
    "TOWNKEEPER_METRICS_",
    "TOWNKEEPER_JWKS_URL",
    "GASTOWN_",
)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the plane listens; port 0 stands for a free one until `reserved`."""

    host: str
    http: int
    registry: int
    snapshots: int
    supervisor: int

    def at(self, port: int) -> str:
        """`host:port` to listen on."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{port}"

    def to_call(self, port: int) -> str:
        """`host:port` for callers on this machine."""
        anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
        return replace(self, host=anywhere.get(self.host, self.host)).at(port)

    def reserved(self, stack: ExitStack) -> Addresses:
        """The same with a number for each port; an occupied one is a Problem.

        Until the stack is closed nobody else is given the ports, so that a service that
        was away finds its own again: it may listen on them, as all here reuse addresses
        and who reserves does not listen.
        """
        numbers = (
            self._reserve(port, option, stack)
            for port, option in (
                (self.http, "--http-port"),
                (self.registry, "--registry-port"),
                (self.snapshots, "--snapshots-port"),
                (self.supervisor, "--supervisor-port"),
            )
        )
        return Addresses(self.host, *numbers)

    def _reserve(self, port: int, option: str, stack: ExitStack) -> int:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        one = stack.enter_context(socket.socket(family))
        # A port whose last connections are still closing is free for a listener.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((self.host, port))
        except (OSError, OverflowError) as error:
            raise Problem(
                f"cannot listen on {self.at(port)} "
                f"({getattr(error, 'strerror', None) or error}): "
                f"choose another {option} or --host, or end what uses it"
            ) from error
        return int(one.getsockname()[1])

    def endpoints(self, town: str) -> Endpoints:
        return Endpoints(
            town=town,
            http=f"http://{self.to_call(self.http)}",
            registry=self.to_call(self.registry),
            snapshots=self.to_call(self.snapshots),
            supervisor=self.to_call(self.supervisor),
        )


def make_programs(
    data: DataDir,
    addresses: Addresses,
    marking: Marking,
    mark: str,
    container_token: Callable[[], str],
    service_token: Callable[[], str],
    exec_programs: str = "any",
) -> dict[str, Program]:
    """Valkey and the four services, told about each other."""
    socket_path = embedded_valkey.socket_path(data)
    embedded_valkey.make_socket_folder(socket_path)
    base = _base_environment() | {MARK_VARIABLE: mark}
    shared = base | {
        "TOWNKEEPER_ENVIRONMENT": marking.environment,
        "TOWNKEEPER_KEYS_DIR": str(data.keys),
    }
    stored = shared | {"TOWNKEEPER_REDIS_URL": embedded_valkey.url(socket_path)}
    registry = {"TOWNKEEPER_REGISTRY_ADDR": addresses.to_call(addresses.registry)}
    snapshots = {"TOWNKEEPER_SNAPSHOTS_ADDR": addresses.to_call(addresses.snapshots)}
    blobs = {"TOWNKEEPER_BLOB_URL": f"file://{quote(str(data.blobs))}"}
    supervisor = {
        "TOWNKEEPER_SUPERVISOR_ADDR": addresses.to_call(addresses.supervisor),
        "TOWNKEEPER_DATA_DIR": str(data.container),
        "TOWNKEEPER_INSTANCE": INSTANCE,
        "TOWNKEEPER_EXEC": exec_programs,
        # Who presses Ctrl-C waits for no turn, only for saves.
        "TOWNKEEPER_DRAIN_BUDGET": "50s",
        "GASTOWN_TOWN_ID": marking.town,
    }
    listen = {
        "registry": {"TOWNKEEPER_REGISTRY_ADDR": addresses.at(addresses.registry)},
        "snapshots": {"TOWNKEEPER_SNAPSHOTS_ADDR": addresses.at(addresses.snapshots)},
        "gateway": {"TOWNKEEPER_GATEWAY_ADDR": addresses.at(addresses.http)},
    }

    def supervisor_environment() -> Mapping[str, str]:
        token = {"GASTOWN_CONTAINER_TOKEN": container_token()}
        return shared | registry | snapshots | supervisor | token

    def following() -> dict[str, str]:
        write_private(data.service_token, service_token())
        return {"TOWNKEEPER_SERVICE_TOKEN_FILE": str(data.service_token)}

    environments: dict[str, Callable[[], Mapping[str, str]]] = {
        "registry": lambda: stored | listen["registry"],
        "snapshots": lambda: (
            stored | registry | blobs | listen["snapshots"] | following()
        ),
        "gateway": lambda: (
            shared | registry | snapshots | listen["gateway"] | following()
        ),
        "supervisor": supervisor_environment,
    }
    programs = {
        name: Program(
            name=name,
            argv=service_command(name),
            log=data.logs / f"{name}.log",
            stop_s=stop_limit_s(name),
            environ=environ,
        )
        for name, environ in environments.items()
    }
    programs["valkey"] = _valkey(data, socket_path, base)
    return programs


def _valkey(data: DataDir, socket_path: Path, environ: Mapping[str, str]) -> Program:
    return Program(
        name="valkey",
        argv=embedded_valkey.command(socket_path, data.valkey),
        log=data.logs / "valkey.log",
        stop_s=stop_limit_s("valkey"),
        environ=lambda: environ,
        probe=lambda: embedded_valkey.answers(socket_path),
    )


def service_command(name: str) -> list[str]:
    """How a service is run; what lies in the current folder is not imported."""
    # A supervisor has a parent that brings it back while its agents live.
    module = "supervisor.keeper" if name == "supervisor" else name
    return [sys.executable, "-P", "-m", f"services.{module}"]


def _base_environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OURS) and name != MARK_VARIABLE
    }

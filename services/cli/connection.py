"""How commands reach the services: addresses, token and stubs, from options.

`@connected` gives a command all connection options and, for them, one `Session`.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Concatenate, Final, ParamSpec, Self, TypeVar

import grpc
import typer

from services.chassis.access import Kind
from services.chassis.channels import StaticToken, open_sync_channel
from services.chassis.errors import Code, Reason, ServiceError, rpc_errors
from services.chassis.names import AgentName, TownName
from services.chassis.parsers import address
from services.chassis.settings import SettingsError, load
from services.chassis.tls import TlsSettings
from services.cli.layout import DEFAULT, DataDir, Endpoints
from services.cli.output import Output
from services.cli.problems import Exit, Problem
from services.cli.tokens import mint_from
from townkeeper.registry.v1 import registry_pb2
from townkeeper.registry.v1.registry_pb2_grpc import RegistryServiceStub
from townkeeper.snapshots.v1.snapshots_pb2_grpc import SnapshotServiceStub
from townkeeper.supervisor.v1.supervisor_pb2_grpc import SupervisorServiceStub

P = ParamSpec("P")
T = TypeVar("T")

# Minted for one command.
TOKEN_TTL_S: Final = 3600.0
_BY_CODE: Final = {
    Code.INVALID_ARGUMENT: Exit.USAGE,
    Code.UNAUTHENTICATED: Exit.REFUSED,
    Code.PERMISSION_DENIED: Exit.REFUSED,
    Code.NOT_FOUND: Exit.NOT_FOUND,
}
# Somebody else has the agent, whatever token the caller holds.
_FENCED: Final = frozenset({Reason.LEASE_FENCED, Reason.LEASE_HELD})


@dataclass(frozen=True, slots=True)
class Options:
    """The connection options of one command, as given."""

    data_dir: Path
    town: str | None
    registry: str | None
    snapshots: str | None
    token: str | None


@dataclass(slots=True)
class Session:
    """Stubs for one command; channels open when first used and close at its end."""

    options: Options
    out: Output
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def town(self) -> str:
        """The town that is meant: as named, else the one that the plane serves."""
        found = self._endpoints()
        town = self.options.town or (found.town if found else None)
        if town is None:
            self._address("registry")  # without a plane, that is what is missing
            raise Problem("cannot tell which town is meant: give --town", Exit.USAGE)
        return checked(lambda: TownName(town).town)

    def agent(self, given: str) -> AgentName:
        """An agent by its id in the town, or by its full name."""
        if "/" in given:
            return checked(lambda: AgentName.parse(given))
        return checked(lambda: AgentName(self.town, given))

    def registry(self) -> RegistryServiceStub:
        return RegistryServiceStub(self._channel(self._address("registry")))

    def snapshots(self) -> SnapshotServiceStub:
        return SnapshotServiceStub(self._channel(self._address("snapshots")))

    def supervisor_of(self, name: AgentName) -> SupervisorServiceStub:
        """The supervisor to call about an agent: who runs it, or who would."""
        request = registry_pb2.ResolveAgentRequest(name=str(name))
        answer = self.registry().ResolveAgent(request)
        return SupervisorServiceStub(self._channel(answer.instance.address))

    def _channel(self, target: str) -> grpc.Channel:
        try:
            tls = load(TlsSettings, os.environ)
        except SettingsError as error:
            raise Problem(str(error), Exit.USAGE) from error
        channel = open_sync_channel(target, StaticToken(self._token()), tls=tls)
        self._stack.callback(channel.close)
        return channel

    def _address(self, service: str) -> str:
        given: str | None = getattr(self.options, service)
        if given:
            return _address(given, service)
        found = getattr(self._endpoints(), service, None)
        if found is None:
            data = DataDir.at(self.options.data_dir)
            raise Problem(
                f"cannot find a running plane in {data.root}: start it with "
                f"`townkeeper up`, or give --data-dir or --{service}"
            )
        return str(found)

    def _token(self) -> str:
        if self.options.token:
            return self.options.token
        data = DataDir.at(self.options.data_dir)
        if not data.keys.is_dir():
            raise Problem(
                "cannot tell the services who is calling: give --token or set "
                "TOWNKEEPER_TOKEN",
                Exit.USAGE,
            )
        return mint_from(data, Kind.OPERATOR, "*", ttl_s=TOKEN_TTL_S)

    def _endpoints(self) -> Endpoints | None:
        return DataDir.at(self.options.data_dir).endpoints()


def _address(given: str, service: str) -> str:
    try:
        return address(given)
    except ValueError as error:
        raise Problem(
            f"cannot use --{service} {given!r}: it {error}", Exit.USAGE
        ) from error


def checked(make: Callable[[], T]) -> T:
    """The name or value, or a usage error that says what is wrong with it."""
    try:
        return make()
    except ServiceError as error:
        raise Problem(error.message, Exit.USAGE) from error


def connected(
    command: Callable[Concatenate[Session, P], None],
) -> Callable[..., None]:
    """The command with connection options in place of its session."""

    @functools.wraps(command)
    def run(
        *args: Any,
        data_dir: Path,
        town: str | None,
        registry: str | None,
        snapshots: str | None,
        token: str | None,
        as_json: bool,
        **options: Any,
    ) -> None:
        given = Options(data_dir, town, registry, snapshots, token)
        try:
            with rpc_errors(), Session(given, Output(as_json)) as session:
                command(session, *args, **options)
        except ServiceError as error:
            raise as_problem(error) from error

    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    parameters = [*own, *_CONNECTION]
    setattr(run, "__signature__", inspect.Signature(parameters))  # noqa: B010
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def as_problem(error: ServiceError) -> Problem:
    """A refusal of a service as the end of a command."""
    if error.reason in _FENCED:
        return Problem(error.message, Exit.REFUSED)
    message = error.message
    if not message.startswith("cannot"):
        # Said by gRPC itself: nobody answered, or no service of ours.
        message = (
            f"cannot reach the service ({error.code.name}): is it running? Start it "
            f"with `townkeeper up`, or check the address; {message}"
        )
    return Problem(message, _BY_CODE.get(error.code, Exit.FAILED))


def _option(name: str, kind: Any, default: Any, **about: Any) -> inspect.Parameter:
    declaration = typer.Option(about.pop("flag"), rich_help_panel="Connection", **about)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, declaration],
    )


_CONNECTION: Final = [
    _option(
        "data_dir",
        Path,
        DEFAULT,
        flag="--data-dir",
        help="The directory of a running `townkeeper up`.",
    ),
    _option(
        "town",
        str | None,
        None,
        flag="--town",
        help="The town; else the one of the data directory.",
        show_default=False,
    ),
    _option(
        "registry",
        str | None,
        None,
        flag="--registry",
        envvar="TOWNKEEPER_REGISTRY_ADDR",
        help="Address of the registry, as host:port.",
        show_default=False,
    ),
    _option(
        "snapshots",
        str | None,
        None,
        flag="--snapshots",
        envvar="TOWNKEEPER_SNAPSHOTS_ADDR",
        help="Address of the snapshot service, as host:port.",
        show_default=False,
    ),
    _option(
        "token",
        str | None,
        None,
        flag="--token",
        envvar="TOWNKEEPER_TOKEN",
        help="Who you are; else an operator's token from the data directory's keys.",
        show_default=False,
    ),
    _option(
        "as_json",
        bool,
        False,
        flag="--json",
        help="Print JSON.",
    ),
]

"""What reflection finds: everything that a person may ask `describe` for."""

import pytest

from services.chassis.symbols import Symbols
from townkeeper.registry.v1 import registry_pb2

FILE = registry_pb2.DESCRIPTOR.name


@pytest.mark.parametrize(
    "symbol",
    [
        pytest.param("RegistryService", id="service"),
        pytest.param("RegistryService.GetAgent", id="method"),
        pytest.param("GetAgentRequest", id="message"),
    ],
)
def test_a_symbol_leads_to_its_file(symbol: str) -> None:
    """Services, their methods and messages are all found by their full names."""
    found = Symbols().FindFileContainingSymbol(f"townkeeper.registry.v1.{symbol}")

    assert FILE == found.name


@pytest.mark.parametrize(
    "symbol",
    [
        pytest.param("townkeeper.registry.v1.RegistryService.Nonsense", id="method"),
        pytest.param("no.such.Service.Method", id="service"),
        pytest.param("nonsense", id="word"),
        pytest.param("", id="nothing"),
    ],
)
def test_what_is_not_there_is_not_found(symbol: str) -> None:
    """A name that nothing has is a KeyError, which becomes NOT_FOUND."""
    with pytest.raises(KeyError):
        Symbols().FindFileContainingSymbol(symbol)

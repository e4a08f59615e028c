"""The descriptors that reflection answers from, found by method names as well.

protobuf's own pool knows the file of a service but not that of its methods, so
`grpcurl describe package.Service.Method` would find nothing.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool


class Symbols:
    """protobuf's default pool, with one more way to look a symbol up."""

    def __init__(self) -> None:
        self._pool: Any = descriptor_pool.Default()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:
        """The file of a message, an enum, a service, or one of a service's methods."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            found = self._pool.FindServiceByName(service)
            if method in found.methods_by_name:
                return found.file
            raise

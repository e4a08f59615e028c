"""Which environment variables a request may set for its agent."""

from __future__ import annotations

from collections.abc import Mapping

# They decide where state lies, what is loaded and who the agent is: ours alone.
RESERVED_NAMES = frozenset({"HOME", "TMPDIR", "KILO_DB"})
RESERVED_PREFIXES = ("XDG_", "LD_", "TOWNKEEPER_", "GASTOWN_")


def is_reserved(name: str) -> bool:
    """True for names that a request cannot set."""
    return name in RESERVED_NAMES or name.startswith(RESERVED_PREFIXES)


def allowed_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """What is left of a request's variables. Reserved ones are dropped, not refused:
    the original's workers send some of them with every start."""
    return {
        name: value
        for name, value in variables.items()
        if name
        and not is_reserved(name)
        and "=" not in name
        and "\0" not in name + value
    }

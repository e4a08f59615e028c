"""What a spec means to a start."""

import pytest

from services.supervisor.specs import AgentSpec, Resume, Role

RESERVED = [
    "HOME",
    "TMPDIR",
    "KILO_DB",
    "XDG_DATA_HOME",
    "LD_PRELOAD",
    "TOWNKEEPER_RUN",
    "GASTOWN_CONTAINER_TOKEN",
]


@pytest.mark.parametrize("variable", [*RESERVED, "", "A=B", "NUL\0"])
def test_variables_that_never_reach_a_process(variable: str) -> None:
    """Whatever a stored entry holds, the agent's files and identity stay ours."""
    spec = AgentSpec("r", Role.MAYOR, env_vars={variable: "x", "GOOD": "y"})

    assert {"GOOD": "y"} == spec.run_spec.env_vars


@pytest.mark.parametrize(
    ("role", "resume", "expected"),
    [
        (Role.MAYOR, Resume.DEFAULT, True),
        (Role.MAYOR, Resume.FRESH, False),
        (Role.POLECAT, Resume.DEFAULT, False),
        (Role.POLECAT, Resume.LATEST, True),
        (Role.REFINERY, Resume.DEFAULT, False),
        (Role.TRIAGE, Resume.DEFAULT, False),
    ],
)
def test_who_continues_a_session(role: Role, resume: Resume, expected: bool) -> None:
    """Mayors go on where they were; all others begin anew unless asked."""
    assert expected == AgentSpec("r", role, resume=resume).continues

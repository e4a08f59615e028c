"""What makes a spec complete, and what an update may change in it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.chassis.errors import Reason, ServiceError
from services.registry.specs import (
    COMMAND_MAX,
    PROMPT_BYTES_MAX,
    RIGS_MAX,
    URL_BYTES_MAX,
    VARIABLE_BYTES_MAX,
    VARIABLES_BYTES_MAX,
    VARIABLES_MAX,
    WORD_BYTES_MAX,
    AgentSpec,
    RigRef,
    Role,
    Runtime,
    check_paths,
    problems_of,
    refuse,
    updated,
)
from tests.support.registry_samples import EXEC_SPEC, OTHER_SPEC, SPEC

WORKER = AgentSpec(
    rig_id="rig-1",
    role=Role.POLECAT,
    model="kilo/auto",
    git_url="https://example.org/r.git",
    branch="main",
)


def fields(spec: AgentSpec) -> list[str]:
    return [problem.field for problem in problems_of(spec)]


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(SPEC, id="lightweight mayor"),
        pytest.param(WORKER, id="worker"),
        pytest.param(EXEC_SPEC, id="program"),
        pytest.param(replace(EXEC_SPEC, database="a/b.db"), id="with a database"),
        pytest.param(replace(SPEC, rig_id=f"mayor-{'t' * 128}"), id="longest rig"),
        pytest.param(replace(SPEC, prompt="x" * PROMPT_BYTES_MAX), id="long prompt"),
        pytest.param(replace(SPEC, prompt="line\nline\ttab"), id="prompt of lines"),
        pytest.param(
            replace(SPEC, env_vars={"KILO_CONFIG_CONTENT": "{}", "PATH": "/bin"}),
            id="variables",
        ),
    ],
)
def test_a_complete_spec_has_no_problems(spec):
    """What can be started is taken as it is."""
    assert [] == fields(spec)


@pytest.mark.parametrize(
    ("spec", "wrong"),
    [
        pytest.param(replace(WORKER, rig_id=""), ["rig_id"], id="no rig"),
        pytest.param(replace(WORKER, role=Role.UNSPECIFIED), ["role"], id="no role"),
        pytest.param(replace(WORKER, model=""), ["model"], id="no model"),
        pytest.param(replace(WORKER, git_url=""), ["git_url"], id="no repository"),
        pytest.param(replace(WORKER, branch=""), ["branch"], id="no branch"),
        pytest.param(replace(EXEC_SPEC, command=()), ["command"], id="no command"),
        pytest.param(replace(EXEC_SPEC, command=("",)), ["command"], id="no program"),
        pytest.param(
            replace(SPEC, rigs=(RigRef(),)), ["rigs[0].rig_id"], id="rig without id"
        ),
    ],
)
def test_what_is_missing_is_named(spec, wrong):
    """Each missing field by its name, as missing."""
    assert wrong == fields(spec)
    assert all(problem.missing for problem in problems_of(spec))


@pytest.mark.parametrize(
    ("spec", "wrong"),
    [
        pytest.param(replace(SPEC, rig_id="../rig"), "rig_id", id="rig"),
        pytest.param(
            replace(SPEC, model="x" * (WORD_BYTES_MAX + 1)), "model", id="long"
        ),
        pytest.param(replace(SPEC, display_name="a\nb"), "display_name", id="lines"),
        pytest.param(replace(SPEC, identity="a\x00b"), "identity", id="NUL"),
        pytest.param(
            replace(SPEC, git_url="x" * (URL_BYTES_MAX + 1)), "git_url", id="long URL"
        ),
        pytest.param(replace(SPEC, git_url="--upload-pack=x"), "git_url", id="option"),
        pytest.param(replace(SPEC, branch="-b"), "branch", id="branch option"),
        pytest.param(replace(SPEC, start_point="-x"), "start_point", id="start option"),
        pytest.param(
            replace(SPEC, default_branch="-x"), "default_branch", id="default option"
        ),
        pytest.param(
            replace(SPEC, system_prompt="x" * (PROMPT_BYTES_MAX + 1)),
            "system_prompt",
            id="long system prompt",
        ),
        pytest.param(replace(SPEC, command=("x",)), "command", id="command for kilo"),
        pytest.param(replace(SPEC, database="x"), "database", id="database for kilo"),
        pytest.param(
            replace(EXEC_SPEC, command=("x",) * (COMMAND_MAX + 1)),
            "command",
            id="many arguments",
        ),
        pytest.param(
            replace(EXEC_SPEC, command=("x", "\0")), "command", id="NUL in command"
        ),
        pytest.param(
            replace(EXEC_SPEC, command=("x" * (128 * 1024 + 1),)),
            "command",
            id="long command",
        ),
        pytest.param(replace(EXEC_SPEC, database="/x"), "database", id="absolute"),
        pytest.param(replace(EXEC_SPEC, database="a/../x"), "database", id="upwards"),
        pytest.param(replace(EXEC_SPEC, database="a/"), "database", id="a folder"),
        pytest.param(replace(EXEC_SPEC, database="a\0b"), "database", id="NUL in path"),
        pytest.param(
            replace(SPEC, rigs=(RigRef("r"),) * (RIGS_MAX + 1)), "rigs", id="many rigs"
        ),
        pytest.param(
            replace(SPEC, rigs=(RigRef("r"), RigRef("r", "-x"))),
            "rigs[1].git_url",
            id="rig's option",
        ),
        pytest.param(
            replace(SPEC, env_vars={f"A{n}": "" for n in range(VARIABLES_MAX + 1)}),
            "env_vars",
            id="many variables",
        ),
        pytest.param(
            replace(SPEC, env_vars={f"A{n}": "x" * 100_000 for n in range(3)}),
            "env_vars",
            id="large variables",
        ),
        pytest.param(
            replace(SPEC, env_vars={"A": "x" * (VARIABLE_BYTES_MAX + 1)}),
            "env_vars.A",
            id="large variable",
        ),
        pytest.param(
            replace(SPEC, env_vars={"A": "\0"}), "env_vars.A", id="NUL in variable"
        ),
        pytest.param(
            replace(SPEC, env_vars={"A=B": ""}), "env_vars.A=B", id="= in name"
        ),
        pytest.param(replace(SPEC, env_vars={"": ""}), "env_vars.", id="no name"),
    ],
)
def test_what_is_wrong_is_named(spec, wrong):
    """Each bad field by its name, and nothing else."""
    assert [wrong] == fields(spec)


def test_limits_fit_each_other():
    """Each variable may be as large as the kernel takes, all of them twice that."""
    assert 2 * VARIABLE_BYTES_MAX <= VARIABLES_BYTES_MAX


class TestRefuse:
    def test_names_every_field_in_one_error(self):
        """The text says what to do about each, metadata names them."""
        with pytest.raises(ServiceError) as refused:
            refuse(problems_of(replace(WORKER, rig_id="", branch="-x")))

        error = refused.value
        assert Reason.FIELD_INVALID is error.reason
        assert {"field": "spec.rig_id", "fields": "spec.rig_id,spec.branch"} == (
            error.metadata
        )
        assert "spec.branch: do not start with a dash" in error.message

    def test_says_required_when_all_are_missing(self):
        """A request that only lacks something is told apart from a wrong one."""
        with pytest.raises(ServiceError) as refused:
            refuse(problems_of(replace(WORKER, rig_id="", branch="")))

        assert Reason.FIELD_REQUIRED is refused.value.reason

    def test_lets_a_complete_spec_pass(self):
        """No problem, no error."""
        refuse(problems_of(SPEC))


class TestUpdated:
    def test_takes_only_what_is_named(self):
        """All other fields stay."""
        new = replace(OTHER_SPEC, prompt="other", system_prompt="s")

        spec = updated(
            SPEC, new, ["spec.model", "spec.system_prompt"], sees_values=True
        )

        assert replace(SPEC, model=OTHER_SPEC.model, system_prompt="s") == spec

    @pytest.mark.parametrize("path", ["spec", "spec.env_vars"])
    def test_keeps_values_that_the_caller_cannot_see(self, path):
        """Empty means the stored one to whoever sees none; a new value replaces it."""
        old = replace(SPEC, env_vars={"A": "1", "B": "2", "C": "3"})
        new = replace(SPEC, env_vars={"A": "", "B": "5", "D": ""})

        blind = updated(old, new, [path], sees_values=False)
        seeing = updated(old, new, [path], sees_values=True)

        assert {"A": "1", "B": "5", "D": ""} == blind.env_vars
        assert new.env_vars == seeing.env_vars

    def test_paths_must_be_there_and_known(self):
        """Nothing named, or something fixed, is refused."""
        with pytest.raises(ServiceError) as nothing:
            check_paths([])
        with pytest.raises(ServiceError) as fixed:
            check_paths(["spec.model", "name", "spec.role"])

        assert Reason.FIELD_REQUIRED is nothing.value.reason
        assert "name,spec.role" == fixed.value.metadata["paths"]
        assert ("spec", "spec.model") == check_paths(["spec", "spec.model"])


@pytest.mark.parametrize(
    ("spec", "has"),
    [
        (SPEC, True),
        (EXEC_SPEC, False),
        (replace(EXEC_SPEC, database="x.db"), True),
        (replace(SPEC, runtime=Runtime.OPENCODE), True),
    ],
)
def test_only_a_program_without_a_file_has_no_database(spec, has):
    """Whoever has a database owes a generation for each message."""
    assert has == spec.has_database

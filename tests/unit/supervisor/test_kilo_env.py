"""What Kilo is told: no request may win over what keeps an agent private."""

import json
from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.supervisor.kilo.env import (
    Model,
    kilo_config,
    kilo_environment,
    read_config,
)
from services.supervisor.runtime import Launch, RunSpec

TWO_PROVIDERS = json.dumps(
    {
        "model": "fake/one",
        "enabled_providers": ["fake", "other"],
        "provider": {"fake": {"models": {"one": {}}}},
    }
)


def launch(**spec):
    return Launch(
        town="t",
        rig="r",
        agent="toast",
        run="run-1",
        role="polecat",
        spec=RunSpec("kilo", **spec),
        home=Path("/home/toast"),
        workdir=Path("/workspaces/toast"),
        tmpdir=Path("/tmp/toast"),
        environ={"GIT_AUTHOR_NAME": "Given"},
    )


def test_a_given_configuration_is_used_as_it_is():
    """Not a byte of KILO_CONFIG_CONTENT changes, comments included."""
    given = '{"model": "a/b", /* why */ "permission": "ask"}'

    config = kilo_config(RunSpec("kilo", env_vars={"KILO_CONFIG_CONTENT": given}))

    assert given == config.text


def test_a_built_configuration_asks_nobody_and_downloads_nothing():
    """Without a configuration an agent runs unattended on the model it was given."""
    config = json.loads(kilo_config(RunSpec("kilo", model="a/b")).text)

    expected = {
        "model": "a/b",
        "permission": "allow",
        "autoupdate": False,
        "share": "disabled",
        "snapshot": False,
        "lsp": False,
        "formatter": False,
    }
    assert expected == config


def test_a_kilo_token_makes_kilos_own_gateway_the_provider():
    """The original's requests name models of the gateway, with slashes in them."""
    spec = RunSpec("kilo", model="anthropic/x", env_vars={"KILOCODE_TOKEN": "secret"})

    config = kilo_config(spec)

    assert Model("kilo", "anthropic/x") == config.resolve("anthropic/x")
    assert "kilo/anthropic/x" == config.model


@pytest.mark.parametrize(
    ("config", "model", "expected"),
    [
        pytest.param(TWO_PROVIDERS, "", Model("fake", "one"), id="the configured one"),
        pytest.param(TWO_PROVIDERS, "other/x/y", Model("other", "x/y"), id="by name"),
        pytest.param(TWO_PROVIDERS, "nobody/x", None, id="provider not enabled"),
        pytest.param(TWO_PROVIDERS, "one", None, id="no provider, two to choose from"),
        pytest.param('{"provider":{"p":{}}}', "one", Model("p", "one"), id="the only"),
        pytest.param("{}", "any/x", Model("any", "x"), id="open configuration"),
        pytest.param("{}", "", None, id="nothing known"),
        pytest.param("no json", "a/b", Model("a", "b"), id="unreadable"),
        pytest.param("[1]", "a/b", Model("a", "b"), id="not an object"),
    ],
)
def test_a_model_is_found_in_its_configuration(config, model, expected):
    """A session sticks to a model it cannot reach, so no wrong one is ever sent."""
    assert expected == read_config(config).resolve(model)


@pytest.mark.parametrize("model", ["", "nobody/x", "one"])
def test_a_model_that_was_asked_for_must_exist(model):
    """A model change that could not work is refused at once."""
    with pytest.raises(ServiceError) as refused:
        read_config(TWO_PROVIDERS).require(model)

    assert Reason.FIELD_INVALID is refused.value.reason


def test_a_request_cannot_move_what_is_private():
    """Folders, password and quiet variables are ours, whatever the request says."""
    ours = ("HOME", "XDG_DATA_HOME", "TMPDIR", "KILO_SERVER_PASSWORD")
    given = dict.fromkeys((*ours, "KILO_TELEMETRY_LEVEL"), "theirs") | {"OWN": "kept"}

    environment = kilo_environment(
        launch(env_vars=given), read_config("{}"), password="secret"
    )

    assert "kept" == environment["OWN"]
    assert "theirs" not in environment.values()
    assert "/home/toast/.local/share" == environment["XDG_DATA_HOME"]
    assert "secret" == environment["KILO_SERVER_PASSWORD"]


def test_home_and_data_both_lie_with_the_agent():
    """One variable moves Kilo's home, another its database: neither does for both."""
    environment = kilo_environment(launch(), read_config("{}"), password="secret")

    homes = {environment[name] for name in ("HOME", "KILO_TEST_HOME")}
    assert {"/home/toast"} == homes
    assert "/home/toast/.local/share" == environment["XDG_DATA_HOME"]


def test_an_agent_knows_who_it_is():
    """Tools and git see the agent's names; what the supervisor adds wins."""
    environment = kilo_environment(
        launch(name="Toast", env_vars={"GIT_TOKEN": "t", "GITHUB_TOKEN": "u"}),
        read_config("{}"),
        password="secret",
    )

    assert "toast" == environment["GASTOWN_AGENT_ID"]
    assert "Given" == environment["GIT_AUTHOR_NAME"]
    assert "Toast (gastown)" == environment["GIT_COMMITTER_NAME"]
    assert "t" == environment["GH_TOKEN"]

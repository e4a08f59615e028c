"""What Kilo is told before it starts: environment, configuration, model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.chassis.errors import Reason, ServiceError
from services.supervisor.runtime import Launch, RunSpec

CONFIG = "KILO_CONFIG_CONTENT"
PASSWORD = "KILO_SERVER_PASSWORD"
USERNAME = "kilo"
KILO_PROVIDER = "kilo"
KILO_TOKEN = "KILOCODE_TOKEN"

# Nothing is downloaded, reported or shared; a first prompt then needs no network but
# the model's.
QUIET = {
    "KILO_TELEMETRY_LEVEL": "off",
    **{
        f"KILO_DISABLE_{what}": "1"
        for what in (
            "AUTOUPDATE",
            "CLAUDE_CODE",
            "CODEBASE_INDEXING",
            "DEFAULT_PLUGINS",
            "EXTERNAL_SKILLS",
            "LSP_DOWNLOAD",
            "MODELS_FETCH",
            "PRESENCE",
            "SESSION_INGEST",
            "SHARE",
        )
    },
}
_GITHUB_TOKENS = ("GITHUB_CLI_PAT", "GIT_TOKEN", "GITHUB_TOKEN")


@dataclass(frozen=True, slots=True)
class Model:
    """A model as Kilo's prompts name it."""

    provider: str
    name: str

    def as_json(self) -> dict[str, str]:
        return {"providerID": self.provider, "modelID": self.name}


@dataclass(frozen=True, slots=True)
class KiloConfig:
    """The configuration's text, and what we must know of it."""

    text: str
    model: str = ""
    providers: frozenset[str] = field(default_factory=frozenset)
    closed: bool = False  # `enabled_providers` says that there are no others

    def resolve(self, model: str) -> Model | None:
        """The provider and name of a model; None where the configuration decides.

        A name that starts with no provider known here belongs to Kilo's own gateway
        when that is configured: its names hold a slash themselves.
        """
        model = model or self.model
        provider, slash, name = model.partition("/")
        if slash and provider in self.providers:
            return Model(provider, name)
        if model and KILO_PROVIDER in self.providers:
            return Model(KILO_PROVIDER, model)
        if model and not slash and len(self.providers) == 1:
            return Model(next(iter(self.providers)), model)
        return Model(provider, name) if slash and not self.closed else None

    def require(self, model: str) -> Model:
        """`resolve`, for a model that somebody asked for by name."""
        found = self.resolve(model) if model else None
        if found is None:
            known = ", ".join(sorted(self.providers)) or "none"
            raise ServiceError(
                Reason.FIELD_INVALID,
                f"cannot use model {model[:100]!r}: write provider/model, with a "
                f"provider of the agent's configuration ({known})",
                field="model",
            )
        return found


def kilo_config(spec: RunSpec) -> KiloConfig:
    """The configuration given in the request, as it is; else one made of its fields."""
    given = spec.env_vars.get(CONFIG)
    return read_config(given if given else json.dumps(_built(spec)))


def read_config(text: str) -> KiloConfig:
    """What we must know of a configuration. One that we cannot read is Kilo's to
    refuse: it also takes comments in it."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        return KiloConfig(text)
    if not isinstance(config, dict):
        return KiloConfig(text)
    named, enabled = config.get("provider"), config.get("enabled_providers")
    providers = set(named) if isinstance(named, dict) else set()
    closed = isinstance(enabled, list)
    if isinstance(enabled, list):
        providers |= {name for name in enabled if isinstance(name, str)}
    model = config.get("model")
    text_model = model if isinstance(model, str) else ""
    return KiloConfig(text, text_model, frozenset(providers), closed)


def kilo_environment(
    launch: Launch, config: KiloConfig, password: str
) -> dict[str, str]:
    """The whole environment of a Kilo server, but PATH, LANG and the run's mark."""
    return (
        dict(launch.spec.env_vars)
        | agent_identity(launch)
        | dict(launch.environ)
        | QUIET
        | {name: str(path) for name, path in private_folders(launch).items()}
        | {
            CONFIG: config.text,
            "OPENCODE_CONFIG_CONTENT": config.text,
            "KILOCODE_FEATURE": "gastown",
            "KILO_SERVER_USERNAME": USERNAME,
            PASSWORD: password,
        }
    )


def private_folders(launch: Launch) -> dict[str, Path]:
    """Where Kilo may write: the variables win over HOME, so all are set."""
    home = launch.home
    return {
        "HOME": home,
        "KILO_TEST_HOME": home,
        "XDG_DATA_HOME": home / ".local/share",
        "XDG_STATE_HOME": home / ".local/state",
        "XDG_CONFIG_HOME": home / ".config",
        "XDG_CACHE_HOME": home / ".cache",
        "TMPDIR": launch.tmpdir,
    }


def agent_identity(launch: Launch) -> dict[str, str]:
    """Who the agent is, to its tools and to git."""
    name = launch.spec.name or launch.agent
    author, email = f"{name} (gastown)", f"{name}@gastown.local"
    given = launch.spec.env_vars
    identity = {
        "GASTOWN_AGENT_ID": launch.agent,
        "GASTOWN_RIG_ID": launch.rig,
        "GASTOWN_TOWN_ID": launch.town,
        "GASTOWN_AGENT_ROLE": launch.role,
        "GIT_AUTHOR_NAME": given.get("GIT_AUTHOR_NAME", author),
        "GIT_AUTHOR_EMAIL": given.get("GIT_AUTHOR_EMAIL", email),
        "GIT_COMMITTER_NAME": given.get("GIT_COMMITTER_NAME", author),
        "GIT_COMMITTER_EMAIL": given.get("GIT_COMMITTER_EMAIL", email),
    }
    token = next((given[name] for name in _GITHUB_TOKENS if given.get(name)), None)
    if token and "GH_TOKEN" not in given:
        identity["GH_TOKEN"] = token
    return identity


def _built(spec: RunSpec) -> Mapping[str, object]:
    token = spec.env_vars.get(KILO_TOKEN)
    config: dict[str, object] = {
        "permission": "allow",  # nobody sits there to be asked
        "autoupdate": False,
        "share": "disabled",
        "snapshot": False,  # ours are better, and these cost a second a turn
        "lsp": False,
        "formatter": False,
    }
    for key, model in (("model", spec.model), ("small_model", spec.small_model)):
        if model:
            ours = bool(token) and not model.startswith(f"{KILO_PROVIDER}/")
            config[key] = f"{KILO_PROVIDER}/{model}" if ours else model
    if token:
        options = {"apiKey": token, "kilocodeToken": token}
        config["provider"] = {KILO_PROVIDER: {"options": options}}
    return config

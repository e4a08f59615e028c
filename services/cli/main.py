"""The `townkeeper` command: its commands by name, and how each of them ends."""

from __future__ import annotations

import os
import sys
from typing import Final

import typer

from services.cli import (
    agents,
    demo,
    install,
    instances,
    keys,
    revoke,
    serve,
    snapshots,
    tokens,
    up,
)
from services.cli.problems import Exit, Problem, one_line

app: Final = typer.Typer(
    name="townkeeper",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Keep a town of AI coding agents alive: kill the container, the agent does
not notice.""",
    epilog="""Exit codes: 0 done · 1 failed · 2 usage · 3 not found · 4 refused
(credentials, or another instance has the agent).""",
)
app.command()(demo.demo)
app.command()(up.up)
app.command()(serve.serve)
app.add_typer(agents.app, name="agents")
app.add_typer(snapshots.app, name="snapshots")
app.add_typer(instances.app, name="instances")
tokens.app.command()(revoke.revoke)
app.add_typer(tokens.app, name="token")
app.add_typer(keys.app, name="keys")
app.add_typer(install.app, name="runtime")


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs one command; every failure is one line on stderr and an exit code."""
    try:
        code = app(arguments, prog_name="townkeeper", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        return _usage(error)
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except Problem as problem:
        return _failed(str(problem), problem.code, problem.detail)
    except BrokenPipeError:
        # The reader has seen enough; the interpreter's own flush must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    return code if isinstance(code, int) else Exit.DONE


def _usage(error: typer.TyperException) -> int:
    text = getattr(error, "format_message", lambda: str(error))()
    text = text.replace("Value error, ", "").rstrip(".")
    context = getattr(error, "ctx", None)
    hint = f" (see `{context.command_path} --help`)" if context else ""
    return _failed(f"cannot understand the command: {text}{hint}", Exit.USAGE)


def _failed(text: str, code: Exit, detail: str = "") -> int:
    typer.echo(one_line(text), err=True)
    if detail:
        typer.echo(detail, err=True)
    return code


if __name__ == "__main__":
    main()

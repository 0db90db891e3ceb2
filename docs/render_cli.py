"""Writes docs/guide/cli.md from the commands' own help; tests/docs checks that it is current.

python docs/render_cli.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from contex_server.cli.application import application
from contex_server.cli.exits import ExitCode

PAGE = Path(__file__).parent / "guide" / "cli.md"
_WIDTH = 100

_INTRODUCTION = """\
<!-- made by docs/render_cli.py; change the commands, not this file -->
# Commands

`contex` starts a server, and is a client of one for people and for pipes.

- `--target` or `CONTEX_TARGET` names the server, `--project` or `CONTEX_PROJECT` the project.
- Tables and lines are for people. `--json` prints one object a line, with stable keys; progress and
  remarks go to stderr.
- Ctrl-C is clean: streams are closed and what was printed is acknowledged first.
- `CONTEX_DEBUG=1` shows a trace where a command fails unexpectedly.
"""


def page() -> str:
    """The whole page."""
    exits = [f"| {code.value} | {code.meaning} |" for code in ExitCode]
    parts = [_INTRODUCTION, "\n".join(["| exit code | meaning |", "|---|---|", *exits, ""])]
    contex: Any = typer.main.get_command(application)
    top = contex.context_class(
        contex, info_name="contex", terminal_width=_WIDTH, **contex.context_settings
    )
    for context in _subcommands(top):
        lines = [line.rstrip() for line in context.get_help().strip().splitlines()]
        parts.append("\n".join([f"## {context.command_path}", "", "```text", *lines, "```", ""]))
    return "\n".join(parts)


def _subcommands(parent: Any) -> Iterator[Any]:
    for name, command in getattr(parent.command, "commands", {}).items():
        context = command.context_class(command, info_name=name, parent=parent)
        yield context
        yield from _subcommands(context)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

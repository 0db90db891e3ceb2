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
    for name, command in _commands("contex", typer.main.get_command(application)):
        context = command.context_class(command, info_name=name, terminal_width=_WIDTH)
        lines = [line.rstrip() for line in command.get_help(context).strip().splitlines()]
        parts.append("\n".join([f"## {name}", "", "```text", *lines, "```", ""]))
    return "\n".join(parts)


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", {})
    if name != "contex":  # its help is the list of what follows
        yield name, command
    for child, its_command in children.items():
        yield from _commands(f"{name} {child}", its_command)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

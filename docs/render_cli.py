"""Writes docs/guide/cli.md from the commands' own help; tests/docs checks that it is current.

python docs/render_cli.py
"""

from __future__ import annotations

from pathlib import Path

from contex_cli.commands import COMMANDS, GROUPS, help_page, load
from contex_cli.exits import ExitCode

PAGE = Path(__file__).parent / "guide" / "cli.md"

_INTRODUCTION = """\
<!-- made by docs/render_cli.py; change the commands, not this file -->
# Commands

`contex` starts a server, and is a client of one for people and for pipes.

- `--target` or `CONTEX_TARGET` names the server, `--project` or `CONTEX_PROJECT` the project.
- Tables and lines are for people. `--json` prints one object a line, with [stable keys](json.md);
  progress and remarks go to stderr.
- Ctrl-C is clean: streams are closed and what was printed is acknowledged first.
- `CONTEX_DEBUG=1` shows a trace where a command fails unexpectedly.
"""


def page() -> str:
    """The whole page."""
    exits = [f"| {code.value} | {code.meaning} |" for code in ExitCode]
    parts = [_INTRODUCTION, "\n".join(["| exit code | meaning |", "|---|---|", *exits, ""])]
    pages = {name: help_page(name) for name in GROUPS}
    pages |= {name: load(name).page() for name in COMMANDS}
    order = [*dict.fromkeys(name.partition(" ")[0] for name in COMMANDS)]
    for name in sorted(pages, key=lambda name: order.index(name.partition(" ")[0])):
        parts.append(f"## contex {name}\n\n```text\n{pages[name]}```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

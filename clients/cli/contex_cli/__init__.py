"""The command `contex`: a client of a Contex server for people and for pipes."""

from __future__ import annotations

import os
import sys

from contex_cli.commands import COMMANDS, GROUPS, group_page, load, overview, subcommands
from contex_cli.exits import ExitCode


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code, one of `ExitCode`.

    No command's module is imported but the one that runs.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        return _run(words)
    except KeyboardInterrupt:  # outside of a command: while modules are imported
        return ExitCode.INTERRUPTED


def _run(words: list[str]) -> int:
    if request := os.environ.get("_CONTEX_COMPLETE"):
        from contex_cli import completion

        return completion.answer(request.partition("_")[0])
    first, second = (*words[:2], "", "")[:2]
    name = f"{first} {second}" if f"{first} {second}" in COMMANDS else first
    if name == first and subcommands(first) and second and not second.startswith("-"):
        return _refuse(f"contex {first}", f"No such command {second!r}.")
    if name in COMMANDS:
        return load(name).run(name, words[1 + (name != first) :])
    if first in ("", "-h", "--help"):
        print(overview(), end="", file=sys.stdout if first else sys.stderr)
        return ExitCode.OK if first else ExitCode.USAGE
    if first in GROUPS:
        if second not in ("", "-h", "--help"):
            return _refuse(f"contex {first}", f"No such command {second!r}.")
        print(group_page(first), end="", file=sys.stdout if second else sys.stderr)
        return ExitCode.OK if second else ExitCode.USAGE
    if first == "--version":
        from importlib.metadata import version

        print(f"contex {version('contex-cli')}")
        return ExitCode.OK
    if first in ("--install-completion", "--show-completion"):
        from contex_cli import completion

        return completion.run(first)
    kind = "option" if first.startswith("-") else "command"
    return _refuse("contex", f"No such {kind} {first!r}.")


def _refuse(path: str, problem: str) -> int:
    print(f"Usage: {path} [OPTIONS] COMMAND [ARGS]...", file=sys.stderr)
    print(f"Try '{path} -h' for help.\n\nError: {problem}", file=sys.stderr)
    return ExitCode.USAGE

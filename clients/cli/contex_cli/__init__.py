"""The command `contex`: a client of a Contex server for people and for pipes."""

from __future__ import annotations

import os
import sys

from contex_cli.commands import COMMANDS, help_page, load, subcommands
from contex_cli.exits import ExitCode, complain, complain_about, end_quietly, open_streams


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code, one of `ExitCode`.

    No command's module is imported but the one that runs.
    """
    words = sys.argv[1:] if arguments is None else arguments
    # What gRPC writes to stderr of itself, such as each handshake that fails, is said in one line.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR" if words[:1] == ["serve"] else "NONE")
    if not open_streams() and words[:1] != ["serve"]:
        complain("can't write: stdout is closed")
        return ExitCode.USAGE
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:  # outside of a command: while modules are imported
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # outside of a command: help
        return end_quietly()
    except OSError as error:
        return complain_about(error)


def _run(words: list[str]) -> int:
    if request := os.environ.get("_CONTEX_COMPLETE"):
        from contex_cli import completion

        return completion.answer(request.partition("_")[0])
    group = words[0] if words and words[0] and subcommands(words[0]) else ""
    word = "".join(words[1:2] if group else words[:1])
    name = f"{group} {word}".strip()
    if name in COMMANDS:
        return load(name).run(words[len(name.split()) :])
    if group in COMMANDS and word.startswith("-"):
        return load(group).run(words[1:])
    if word in ("", "-h", "--help"):
        print(help_page(group), end="", file=sys.stdout if word else sys.stderr)
        return ExitCode.OK if word else ExitCode.USAGE
    if not group and word == "--version":
        from importlib.metadata import version

        print(f"contex {version('contex-cli')}")
        return ExitCode.OK
    if not group and word in ("--install-completion", "--show-completion"):
        from contex_cli import completion

        return completion.run(word)
    path = f"contex {group}".strip()
    kind = "option" if not group and word.startswith("-") else "command"
    print(f"Usage: {path} [OPTIONS] COMMAND [ARGS]...", file=sys.stderr)
    print(f"Try '{path} -h' for help.\n\nError: No such {kind} {word!r}.", file=sys.stderr)
    return ExitCode.USAGE

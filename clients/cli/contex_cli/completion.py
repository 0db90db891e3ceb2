"""Completion of commands, options and their values, by click's scripts for bash, zsh and fish."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from contex_cli.commands import COMMANDS, load, subcommands
from contex_cli.exits import ExitCode, complain

VARIABLE = "_CONTEX_COMPLETE"
"""Set by the scripts when they ask: to "bash_complete" and so on."""
_SHELLS = {
    "bash": (".local/share/bash-completion/completions/contex", "bash-completion loads it"),
    "zsh": (".zfunc/_contex", "~/.zshrc needs: fpath+=~/.zfunc; autoload -Uz compinit; compinit"),
    "fish": (".config/fish/completions/contex.fish", "fish loads it"),
}


def run(option: str) -> ExitCode:
    shell = os.path.basename(os.environ.get("SHELL", ""))
    if shell not in _SHELLS:
        complain(f"SHELL is {shell!r}: there is completion for {', '.join(_SHELLS)}")
        return ExitCode.USAGE
    script = _completer(shell).source()
    if option == "--show-completion":
        print(script, end="")
        return ExitCode.OK
    file, hint = _SHELLS[shell]
    path = Path.home() / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script, encoding="utf-8")
    print(f"written: {path}; {hint}")
    return ExitCode.OK


def answer(shell: str) -> ExitCode:
    """Answers the script of a shell, which says in variables what was typed."""
    completer = _completer(shell)
    words, incomplete = completer.get_completion_args()
    print("\n".join(map(completer.format_completion, candidates(words, incomplete))))
    return ExitCode.OK


def candidates(words: list[str], incomplete: str) -> list[CompletionItem]:
    """What the last word may become, after the complete ones."""
    names = subcommands(*words) if len(words) < 2 else {}
    items = [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else "".join(words[:1])
    if name in COMMANDS:
        rest = words[len(name.split()) :]
        items += ShellComplete(load(name), {}, name, VARIABLE).get_completions(rest, incomplete)
    return items


def _completer(shell: str) -> ShellComplete:
    completer = get_completion_class(shell)
    assert completer is not None
    return completer(click.Command("contex"), {}, "contex", VARIABLE)

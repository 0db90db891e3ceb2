"""Completion of commands, options and their values, in bash, zsh and fish."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path

from contex_cli.commands import COMMANDS, GROUPS, load
from contex_cli.exits import ExitCode, complain
from contex_cli.parameters import Parameter

_BASH = """\
_contex() {
    local IFS=$'\\n'
    local words=("${COMP_WORDS[@]:1:COMP_CWORD}")
    COMPREPLY=($(compgen -W "$(contex --complete "${words[@]}")" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _contex contex
"""
_ZSH = """\
#compdef contex
local found=(${(f)"$(contex --complete "${(@)words[2,CURRENT]}")"})
if (( $#found )); then compadd -a found; else _files; fi
"""
_FISH = """\
complete -c contex -a '(contex --complete (commandline -opc)[2..] (commandline -ct))'
"""
_SHELLS = {
    "bash": (_BASH, ".local/share/bash-completion/completions/contex", "bash-completion loads it"),
    "zsh": (
        _ZSH,
        ".zfunc/_contex",
        "~/.zshrc needs: fpath+=~/.zfunc; autoload -Uz compinit; compinit",
    ),
    "fish": (_FISH, ".config/fish/completions/contex.fish", "fish loads it"),
}


def run(option: str, words: list[str]) -> ExitCode:
    """Runs --show-completion, --install-completion and --complete, which the scripts call."""
    if option == "--complete":
        print("\n".join(candidates(words)))
        return ExitCode.OK
    shell = os.path.basename(os.environ.get("SHELL", ""))
    if shell not in _SHELLS:
        complain(f"SHELL is {shell!r}: there is completion for {', '.join(_SHELLS)}")
        return ExitCode.USAGE
    script, file, hint = _SHELLS[shell]
    if option == "--show-completion":
        print(script, end="")
        return ExitCode.OK
    path = Path.home() / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script, encoding="utf-8")
    print(f"written: {path}; {hint}")
    return ExitCode.OK


def candidates(words: list[str]) -> list[str]:
    """What the last word may become: all names at its place, those that don't fit included."""
    first, second, last = words[0], "".join(words[1:2]), words[-1]
    if len(words) == 1:
        top = {name.partition(" ")[0] for name in COMMANDS} | GROUPS.keys()
        return sorted(top)
    found = [n.split()[1] for n in COMMANDS if n.startswith(f"{first} ")] if len(words) == 2 else []
    name = f"{first} {second}" if f"{first} {second}" in COMMANDS else first
    if name not in COMMANDS:
        return found
    options = load(name).signature.options
    named = {text: option for option in options for text in (*option.positive, *option.negative)}
    if (before := named.get(words[-2])) is not None and before.kind is not bool:
        return _values(before)
    return [*found, *(text for text in named if text.startswith("--") and last[:1] in ("", "-"))]


def _values(option: Parameter) -> list[str]:
    is_choice = isinstance(option.kind, type) and issubclass(option.kind, StrEnum)
    return list(option.kind) if is_choice else []

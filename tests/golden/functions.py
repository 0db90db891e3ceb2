"""What the store's functions take and return, read out of their source.

Servers of two versions call the same functions during an upgrade, and the version that starts
last replaces the library. So a function keeps its arguments and its replies for as long as it has
its name; see docs/adr/0017.

The contract of a function are the lines in which it touches its keys, its arguments or its
reply, those of the helpers that it hands its keys or arguments to, and the constants that say
where they lie. Nothing else of it counts: its body may change freely. `functions.json` has the
contracts that are in use; after a change that is meant, write it anew and let the diff be
reviewed:

    python -m tests.golden.functions
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import contex_server

RECORDED = Path(__file__).with_name("functions.json")
Contracts = dict[str, list[str]]

_FUNCTION = re.compile(r"^local function (\w+)\((.*?)\)\n(.*?)^end$", re.M | re.S)
_REGISTERED = re.compile(
    r"register_function(?:\('(\w+)', (\w+)\)"
    r"|\{ function_name = '(\w+)', callback = (\w+))"
)
_CONSTANT = re.compile(r"^local ([A-Z_]+(?:, [A-Z_]+)*) = .*$", re.M)
_COMMENT = re.compile(r"--.*")


def library() -> str:
    """The source of all functions, wherever in the package it lies."""
    package = Path(contex_server.__path__[0])
    return "\n".join(path.read_text() for path in sorted(package.rglob("*.lua")))


def contracts(source: str) -> Contracts:
    """The contract of each function of a library."""
    source = _COMMENT.sub("", source)
    helpers = {name: (given, body) for name, given, body in _FUNCTION.findall(source)}
    constants = {
        name: match.group(0).strip()
        for match in _CONSTANT.finditer(source)
        for name in match.group(1).split(", ")
    }
    return {
        name or other_name: _contract(function or other_function, helpers, constants)
        for name, function, other_name, other_function in _REGISTERED.findall(source)
    }


def _contract(
    function: str, helpers: dict[str, tuple[str, str]], constants: dict[str, str]
) -> list[str]:
    lines, seen, todo = [], set[str](), [function]
    while todo:
        name = todo.pop(0)
        given, body = helpers[name]
        found = _lines(body, replies=name == function)
        if name != function:
            lines.append(f"{name}({given})")
        lines += found
        text = "\n".join(found)
        lines += sorted({constants[word] for word in re.findall(r"\w+", text) if word in constants})
        seen.add(name)
        for called in re.findall(r"(\w+)\(", text):
            if called in helpers and called not in (*seen, *todo):
                todo += [called] if _GIVEN.search(helpers[called][0]) else []
    return lines


_GIVEN = re.compile(r"\b(keys|args)\b")
_INDEX = re.compile(r"\b(?:keys|args)\[(.*?)\]")


def _lines(body: str, *, replies: bool) -> list[str]:
    """The lines that touch keys or arguments, or say which of them is meant."""
    indexes = {word for text in _INDEX.findall(body) for word in re.findall(r"[a-z]\w*", text)}
    assigned = re.compile(rf"\b({'|'.join(indexes) or '-'})\b[\w, ]* = ")
    return [
        " ".join(line.split())
        for line in body.splitlines()
        if _GIVEN.search(line) or assigned.search(line) or (replies and "return" in line)
    ]


if __name__ == "__main__":
    text = json.dumps(contracts(library()), indent=1, sort_keys=True)
    RECORDED.write_text(text + "\n")

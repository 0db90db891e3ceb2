"""Patches drawn for people: unified diffs, and the operations of JSON patches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from contex_server.cli.output import plain, printable, styled

if TYPE_CHECKING:
    from contex import Patch
    from rich.text import Text

_VALUE = 200
_PATH = 100
_OPERATIONS = {
    "add": ("+", "green"),
    "remove": ("-", "red"),
    "replace": ("~", "yellow"),
    "move": (">", "cyan"),
    "copy": (">", "cyan"),
}
_LINES = {"+++": "bold", "---": "bold", "@@": "cyan", "+": "green", "-": "red"}
_OMITTED = {
    "BINARY": "one of the payloads is no text",
    "TOO_LARGE": "one of the payloads is too large",
    "TRIMMED": "the event before can no longer be read",
}


def patch_lines(patch: Patch | None) -> list[Text]:
    """A patch as lines: an operation or a line of the diff each, or why there is none."""
    if patch is None:
        return []
    if patch.omitted is not None:
        name = patch.omitted.name
        return [styled(f"(no patch: {_OMITTED.get(name, name.lower())})", "dim")]
    if patch.json_patch is not None:
        lines = list(map(operation_line, patch.operations))
    elif patch.unified_diff:
        lines = list(map(diff_line, patch.unified_diff.rstrip("\n").split("\n")))
    else:
        lines = []
    return lines or [styled("(the payload is the same)", "dim")]


def operation_line(operation: Mapping[str, Any]) -> Text:
    """One operation of a JSON patch: what it does, where, and the value."""
    name = str(operation.get("op", ""))
    mark, style = _OPERATIONS.get(name, ("?", ""))
    line = styled(f"{mark} {name:<7} ", style)
    if "from" in operation:
        line.append(f"{_pointer(operation['from'])} → ")
    line.append(_pointer(operation.get("path")))
    if "value" in operation:
        value = json.dumps(operation["value"], ensure_ascii=False)
        line.append("  ").append(plain(value, _VALUE), style)
    return line


def _pointer(path: Any) -> str:
    return plain(str(path or ""), _PATH) or "(the whole)"


def diff_line(line: str) -> Text:
    """One line of a unified diff, with what it means as its colour."""
    style = next((style for start, style in _LINES.items() if line.startswith(start)), "")
    return styled(printable(line), style)

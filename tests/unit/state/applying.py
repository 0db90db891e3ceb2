"""Patches applied: RFC 6902 and unified diffs, independently of the code that makes them."""

from __future__ import annotations

import copy
import json
import re
from decimal import Decimal
from typing import Any


def exact(document: str | bytes) -> Any:
    """JSON with every digit."""
    return json.loads(document, parse_float=Decimal)


def as_values(node: Any) -> Any:
    """Values that are equal where JSON's are: 1, 1.0 and true are not."""
    if isinstance(node, dict):
        return {name: as_values(child) for name, child in node.items()}
    if isinstance(node, list):
        return [as_values(child) for child in node]
    return (type(node).__name__, node)


def apply(document: Any, operations: list[dict[str, Any]]) -> Any:
    """RFC 6902, of the operations add, remove and replace."""
    root = {"": copy.deepcopy(document)}
    for operation in operations:
        tokens = [t.replace("~1", "/").replace("~0", "~") for t in operation["path"].split("/")]
        node: Any = root
        for token in tokens[:-1]:
            node = node[int(token) if isinstance(node, list) else token]
        last: Any = int(tokens[-1]) if isinstance(node, list) else tokens[-1]
        match operation["op"]:
            case "remove":
                del node[last]
            case "replace":
                node[last]  # It must be there.
                node[last] = operation["value"]
            case "add" if isinstance(node, list):
                assert 0 <= last <= len(node)
                node.insert(last, operation["value"])
            case "add":
                node[last] = operation["value"]
    return root[""]


def patched(text: str, diff: str) -> str:
    """Applies a unified diff, strictly: every line of it must be where it says."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    rows = re.findall(r"[^\n]*\n|[^\n]+", diff)
    out: list[str] = []
    at, index = 0, 0
    while index < len(rows):
        header = re.fullmatch(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@\n", rows[index])
        assert header is not None, rows[index]
        start, size, new, new_size = (int(n) if n else 1 for n in header.groups())
        begin = start - 1 if size else start
        out += lines[at:begin]
        at = begin
        assert len(out) == (new - 1 if new_size else new)
        taken = made = 0
        index += 1
        while index < len(rows) and rows[index][0] != "@":
            mark, line = rows[index][0], rows[index][1:]
            index += 1
            if index < len(rows) and rows[index].startswith("\\"):
                index += 1
                line = line.removesuffix("\n")
            if mark in " -":
                assert lines[at] == line
                at += 1
                taken += 1
            if mark in " +":
                out.append(line)
                made += 1
        assert (taken, made) == (size, new_size)
    return "".join(out + lines[at:])

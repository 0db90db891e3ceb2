"""Patches between payloads: a JSON Patch (RFC 6902), or a unified diff.

Not the library jsonpatch: it takes 98 ms for a page of a thousand small updates, this 11 ms.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import orjson

from contex_server.kernel.model import Event
from contex_server.matching.formats.media import Format, media
from contex_server.matching.payload_values import text_of
from contex_server.state.json_values import is_same, parse, write
from contex_server.state.line_diff import unified_diff

PATCH_BYTES = 256 * 1024
"""Payloads larger than this are not compared."""
_VERBOSE_BYTES = 4 * 1024
"""Patches longer than this are replaced by the whole document if that is shorter."""

_ABSENT = object()

Operation = dict[str, Any]


class PatchOmitted(IntEnum):
    """Why there is no patch; the numbers are those of the API."""

    NOT = 0
    BINARY = 1
    TOO_LARGE = 2
    TRIMMED = 3
    ERASED = 4


class Patch(NamedTuple):
    """A patch in one of two forms, or why there is none; all empty if nothing changed."""

    json_patch: str = ""
    unified_diff: str = ""
    omitted: PatchOmitted = PatchOmitted.NOT

    @property
    def nbytes(self) -> int:
        """Size in UTF-8."""
        text = self.json_patch or self.unified_diff
        return len(text) if text.isascii() else len(text.encode())


def patch(before: Event, after: Event) -> Patch:
    """The patch from one event's payload to another's.

    Between equal JSON in different bytes it is a JSON Patch without operations.
    """
    if before.erased is not None or after.erased is not None:
        return Patch(omitted=PatchOmitted.ERASED)
    if before.payload == after.payload:
        return Patch()
    if max(len(before.payload), len(after.payload)) > PATCH_BYTES:
        return Patch(omitted=PatchOmitted.TOO_LARGE)
    kind, other_kind = media(before.content_type), media(after.content_type)
    if kind.format is Format.JSON is other_kind.format:
        try:
            return Patch(json_patch=json_patch(before.payload, after.payload))
        except ValueError:
            pass  # Custom event types may have a payload that is not what the content type says.
    one, other = text_of(before.payload, kind), text_of(after.payload, other_kind)
    if one is None or other is None:
        return Patch(omitted=PatchOmitted.BINARY)
    return Patch(unified_diff=unified_diff(one, other))


def json_patch(before: bytes, after: bytes) -> str:
    """A JSON Patch from one document to another.

    Replaces the whole document if it nests too deep to be compared, or if that is shorter.

    Raises:
        ValueError: One of them is not JSON.
    """
    most = max(len(after), _VERBOSE_BYTES)
    try:
        text = write(operations(*parse(before, after), most))
    except (ValueError, RecursionError):
        orjson.loads(before)
        orjson.loads(after)
        return _whole(after)
    return text if len(text) <= most else _whole(after)


def _whole(document: bytes) -> str:
    return f'[{{"op":"replace","path":"","value":{document.decode()}}}]'


class _Edits:
    """The operations so far, whose paths have no more than `most` characters.

    A path takes the names of all that it leads through: those of a document of 256 KiB could take
    gigabytes.
    """

    def __init__(self, most: int) -> None:
        self.operations: list[Operation] = []
        self._left = most

    def add(self, op: str, path: str, **value: Any) -> None:
        self._left -= len(path)
        if self._left < 0:
            raise ValueError("the patch is longer than the document")
        self.operations.append({"op": op, "path": path, **value})


def operations(before: Any, after: Any, most: int) -> list[Operation]:
    """The operations from one parsed document to another.

    Compares objects name by name. Of arrays, equal items at both ends are left alone, the rest is
    compared index by index, and surplus items are removed or added.

    Raises:
        ValueError: Their paths have more than `most` characters.
    """
    edits = _Edits(most)
    _compare(before, after, "", edits)
    return edits.operations


def _compare(before: Any, after: Any, path: str, edits: _Edits) -> None:
    kind = type(before)
    if kind is not type(after):
        edits.add("replace", path, value=after)
    elif kind is dict:
        _compare_objects(before, after, path, edits)
    elif kind is list:
        _compare_arrays(before, after, path, edits)
    elif before != after:
        edits.add("replace", path, value=after)


def _compare_objects(
    before: dict[str, Any], after: dict[str, Any], path: str, edits: _Edits
) -> None:
    for name, value in before.items():
        other = after.get(name, _ABSENT)
        if other is _ABSENT:
            edits.add("remove", f"{path}/{escape(name)}")
            continue
        kind = type(value)
        # Most values are equal: builds no path for them.
        if kind is not type(other) or kind is dict or kind is list or value != other:
            _compare(value, other, f"{path}/{escape(name)}", edits)
    for name, value in after.items():
        if name not in before:
            edits.add("add", f"{path}/{escape(name)}", value=value)


def _compare_arrays(before: list[Any], after: list[Any], path: str, edits: _Edits) -> None:
    if is_same(before, after):
        return
    shorter = min(len(before), len(after))
    start = 0
    while start < shorter and is_same(before[start], after[start]):
        start += 1
    left = shorter - start
    end = 0
    while end < left and is_same(before[-1 - end], after[-1 - end]):
        end += 1
    old, new = len(before) - end, len(after) - end
    for index in range(start, min(old, new)):
        _compare(before[index], after[index], f"{path}/{index}", edits)
    for index in range(old - 1, new - 1, -1):
        edits.add("remove", f"{path}/{index}")
    for index in range(old, new):
        edits.add("add", f"{path}/{index}", value=after[index])


def escape(name: str) -> str:
    """Escapes a name for a JSON pointer."""
    if "~" in name or "/" in name:
        return name.replace("~", "~0").replace("/", "~1")
    return name

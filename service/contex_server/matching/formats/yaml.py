"""YAML, from libyaml's events.

Its loader recurses, refuses unknown tags, and takes ten times as long. Events come lazily, so
parsing stops after the values that are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import yaml
from yaml.reader import ReaderError

from contex_server.matching.formats.media import malformed_at
from contex_server.matching.formats.passages import NESTING, VALUES_READ, PayloadMalformed

_STRING = "tag:yaml.org,2002:str"
_BINARY = "tag:yaml.org,2002:binary"


def load_yaml(text: str) -> tuple[Any, bool]:
    """Reads a YAML stream; several documents are a list of them.

    Ignores tags, except that `!!binary` has no words. An alias stands for its anchor, or for
    nothing within the anchor itself.

    Returns:
        The tree, and whether the stream was read to its end.

    Raises:
        PayloadMalformed: As far as it is read, it is not valid YAML, nests deeper than `NESTING`,
            or has an alias without an anchor.
    """
    try:
        return _load(text)
    except ReaderError as error:
        # libyaml reads UTF-8 and counts its bytes.
        before = text.encode()[: error.position].decode(errors="ignore")
        raise malformed_at(f"not valid YAML: {error.reason}", before) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _malformed(error.problem or error.context or "", mark) from None


def _malformed(problem: str, mark: Any) -> PayloadMalformed:
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    return PayloadMalformed(f"not valid YAML: {problem}", line, column)


def _load(text: str) -> tuple[Any, bool]:
    anchors: dict[str, Any] = {}
    documents: list[Any] = []
    stack = [_Node(documents, None)]
    budget = VALUES_READ
    events: Iterator[Any] = yaml.parse(text, Loader=yaml.CSafeLoader)
    for event in events:
        kind = type(event)
        node: Any
        if kind is yaml.ScalarEvent:
            node = event.value if stack[-1].wants_key else _scalar(event)
            if event.anchor:
                anchors[event.anchor] = node
        elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            if len(stack) > NESTING:
                raise _malformed("nested too deeply", event.start_mark)
            if event.anchor:
                anchors[event.anchor] = None
            stack.append(_Node({} if kind is yaml.MappingStartEvent else [], event.anchor))
            continue
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            closed = stack.pop()
            node = closed.tree
            if closed.anchor:
                anchors[closed.anchor] = node
        elif kind is yaml.AliasEvent:
            if event.anchor not in anchors:
                raise _malformed("undefined alias", event.start_mark)
            node = anchors[event.anchor]
        else:
            if kind is yaml.DocumentStartEvent:
                anchors.clear()
            continue
        budget -= 1 + stack[-1].add(node)
        if budget < 0:
            break
    while len(stack) > 1:
        node = stack.pop().tree
        stack[-1].add(node)
    return documents[0] if len(documents) == 1 else documents, budget >= 0


_tag = cast("Callable[[type, str, tuple[bool, bool]], str]", yaml.resolver.Resolver().resolve)


def _scalar(event: Any) -> str | None:
    """The text of a scalar that is a string."""
    if event.tag == _BINARY:
        return None
    text: str = event.value
    is_plain = event.implicit[0]
    return None if is_plain and _tag(yaml.ScalarNode, text, (True, False)) != _STRING else text


class _Node:
    """A mapping or sequence that is being read."""

    def __init__(self, tree: dict[str, Any] | list[Any], anchor: str | None) -> None:
        self.tree = tree
        self.anchor = anchor
        self.wants_key = type(tree) is dict
        self._key: Any = None

    def add(self, node: Any) -> int:
        """Takes the next element, key or value; returns how many values a merge has brought."""
        tree = self.tree
        if isinstance(tree, list):
            tree.append(node)
            return 0
        self.wants_key = not self.wants_key
        if not self.wants_key:
            self._key = node
            return 0
        key = self._key
        if key == "<<" and type(node) in (dict, list):
            merged = [node] if type(node) is dict else [n for n in node if type(n) is dict]
            for source in merged:
                for name, value in source.items():
                    tree.setdefault(name, value)
            return sum(map(len, merged))
        if type(key) is str:
            tree[key] = node
        else:  # A key that is a collection is described beside its value.
            tree[str(len(tree))] = [key, node]
        return 0

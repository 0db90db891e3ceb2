"""YAML as plain values, read and written without loss."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import yaml

from contex_server.matching.payload_values import NESTING, LongInteger

# Scalars that mean the same in JSON; a version "3.10" or a time "22:22" is kept as written.
_YAML_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
_YAML_FLOAT = re.compile(r"-?(?:0|[1-9]\d{0,6})\.(?:0|\d{0,6}[1-9])")
_YAML_WORDS = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}


class _NotPlain(Exception):
    """YAML that JSON can't express."""


def from_yaml(text: str) -> Any:
    """The value of a YAML document; its text if JSON can't express the value.

    Built from events: libyaml's loader recurses and overflows the stack.
    """
    try:
        return _build(text)
    except (_NotPlain, yaml.YAMLError):
        return text


class _Node:
    """A mapping or sequence that is being read."""

    __slots__ = ("key", "tree")

    def __init__(self, tree: dict[str, Any] | list[Any]) -> None:
        self.tree = tree
        self.key: str | None = None

    def add(self, value: Any, *, is_text: bool) -> None:
        tree = self.tree
        if isinstance(tree, list):
            tree.append(value)
        elif self.key is not None:
            tree[self.key] = value
            self.key = None
        elif is_text and value not in tree:
            self.key = value
        else:
            raise _NotPlain


def _build(text: str) -> Any:
    documents: list[Any] = []
    open_nodes = [_Node(documents)]
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.ScalarEvent):
            if event.tag is not None:
                raise _NotPlain
            value = event.value if event.style else _plain_scalar(event.value)
            open_nodes[-1].add(value, is_text=isinstance(value, str))
        elif isinstance(event, yaml.CollectionStartEvent):
            if event.tag is not None or len(open_nodes) > NESTING:
                raise _NotPlain
            node = _Node({} if isinstance(event, yaml.MappingStartEvent) else [])
            open_nodes[-1].add(node.tree, is_text=False)
            open_nodes.append(node)
        elif isinstance(event, yaml.CollectionEndEvent):
            open_nodes.pop()
        elif isinstance(event, yaml.AliasEvent):
            raise _NotPlain  # Expanded, a few lines of nested aliases are gigabytes.
    if len(documents) != 1:
        raise _NotPlain
    return documents[0]


def _plain_scalar(text: str) -> Any:
    if text in _YAML_WORDS:
        return _YAML_WORDS[text]
    if _YAML_INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _YAML_FLOAT.fullmatch(text) else text


class _YamlDumper(yaml.CSafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_yaml(value: Any) -> str:
    """Writes a plain value."""
    text: str = yaml.dump(
        value, Dumper=_YamlDumper, sort_keys=False, allow_unicode=True, width=1 << 30
    )
    return text


def _represent_text(dumper: _YamlDumper, text: str) -> yaml.ScalarNode:
    # A block where libyaml allows it: models read lines better than escapes. After more than
    # one newline at the end, libyaml would write the end of the document.
    is_block = "\n" in text and not text[0].isspace() and not text.endswith("\n\n")
    style = "|" if is_block else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_number(dumper: _YamlDumper, number: LongInteger | Decimal) -> yaml.ScalarNode:
    text = str(number)
    if text.lstrip("-").isdigit():
        return dumper.represent_scalar("tag:yaml.org,2002:int", text)
    mantissa, _, exponent = text.partition("E")
    if "." not in mantissa:
        mantissa += ".0"
    return dumper.represent_scalar(
        "tag:yaml.org,2002:float", f"{mantissa}e{exponent}" if exponent else mantissa
    )


_YamlDumper.add_representer(str, _represent_text)
_YamlDumper.add_representer(LongInteger, _represent_number)
_YamlDumper.add_representer(Decimal, _represent_number)

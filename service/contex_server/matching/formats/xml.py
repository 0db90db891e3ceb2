"""XML, by expat."""

from __future__ import annotations

import re
from typing import Any
from xml.parsers import expat

from contex_server.matching.formats.passages import NESTING, VALUES_READ, PayloadMalformed
from contex_server.matching.formats.tree import joined
from contex_server.matching.words import READ_CHARS

_ENCODINGS = {"utf-16-le": "utf-16le", "utf-16-be": "utf-16be"}
_RUN = re.compile(r"(.+)\[(\d+)\] \1\[(\d+)\]")
_WITHOUT_WORDS = ("xmlns", "xsi:schemaLocation", "xsi:noNamespaceSchemaLocation")


def load_xml(payload: bytes, encoding: str) -> tuple[Any, bool]:
    """Reads an XML document to its end; returns the tree, and whether it is complete.

    An element that has only text is that text. Any other is a dict of its attributes ("@id"),
    children ("book[2]", or "book" if there is no other) and text (""). Mixed content becomes one
    text.

    `encoding` overrides what the document says, unless it is empty.

    Raises:
        PayloadMalformed: It is not well-formed, declares an entity, or nests deeper than
            `NESTING`.
    """
    parser = expat.ParserCreate(_ENCODINGS.get(encoding, encoding) or None)
    parser.buffer_text = True
    parser.ordered_attributes = True
    builder = _Builder(parser)
    try:
        parser.Parse(payload, True)
    except expat.ExpatError as error:
        problem = f"not valid XML: {expat.ErrorString(error.code)}"
        raise PayloadMalformed(problem, error.lineno, error.offset + 1) from None
    except PayloadMalformed:
        raise
    except (ValueError, LookupError) as error:  # An encoding that Python doesn't know.
        raise builder.malformed(f"not valid XML: {error}") from None
    return builder.tree()


class _Element:
    """An element that is being read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.content: list[Any] = []  # Texts, and values of elements.
        self.branches: list[tuple[str, int, Any]] = []
        self.counts: dict[str, int] = {}
        self.has_elements = False
        self.has_text = False

    def add(self, name: str, value: Any) -> None:
        count = self.counts[name] = self.counts.get(name, 0) + 1
        self.branches.append((name, count, value))

    def value(self) -> Any:
        branches = self.branches
        if self.has_text:
            if not branches:
                return " ".join(self.content)
            if self.has_elements:
                branches = [branch for branch in branches if branch[0].startswith("@")]
            branches.append(("", 1, _prose(self.content)))
            if len(branches) == 1:
                return branches[0][2]
        counts = self.counts
        return {
            f"{name}[{number}]" if counts.get(name, 1) > 1 else name: value
            for name, number, value in branches
        }


def _prose(content: list[Any]) -> str:
    """Text and the text of elements in it, not much more of it than is read."""
    texts: list[str] = []
    chars = 0
    waiting = content[::-1]
    while waiting and chars <= READ_CHARS:
        value = waiting.pop()
        if type(value) is str:
            texts.append(value)
            chars += len(value) + 1
        else:
            waiting.extend(
                [child for name, child in reversed(value.items()) if not name.startswith("@")]
            )
    return " ".join(texts)


class _Builder:
    """Builds the tree from the parser's events."""

    def __init__(self, parser: expat.XMLParserType) -> None:
        self._parser = parser
        self._stack = [_Element("")]
        self._budget = VALUES_READ
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.EntityDeclHandler = self._entity

    def tree(self) -> tuple[Any, bool]:
        while len(self._stack) > 1:
            self._end("")
        ((name, _, value),) = self._stack[0].branches
        return {name: value}, self._budget >= 0

    def malformed(self, problem: str) -> PayloadMalformed:
        parser = self._parser
        return PayloadMalformed(problem, parser.CurrentLineNumber, parser.CurrentColumnNumber + 1)

    def _start(self, name: str, attributes: list[str]) -> None:
        del attributes[2 * VALUES_READ :]
        self._budget -= 1 + len(attributes) // 2
        if self._budget < 0:  # The parser goes on alone, since what follows may be malformed.
            parser = self._parser
            parser.StartElementHandler = parser.EndElementHandler = None
            parser.CharacterDataHandler = None
            if len(self._stack) > 1:
                return
        if len(self._stack) > NESTING:
            raise self.malformed("XML is nested too deeply")
        element = _Element(name)
        for key, value in zip(attributes[::2], attributes[1::2], strict=True):
            if not key.startswith(_WITHOUT_WORDS):
                element.add(f"@{key}", value)
        self._stack.append(element)

    def _end(self, _: str) -> None:
        element = self._stack.pop()
        value = element.value()
        parent = self._stack[-1]
        parent.add(element.name, value)
        parent.content.append(value)
        parent.has_elements = True

    def _text(self, text: str) -> None:
        if not text.isspace():
            element = self._stack[-1]
            element.content.append(text)
            element.has_text = True

    def _entity(self, *_: object) -> None:
        raise self.malformed("XML may not declare entities")


def xpath(first: list[str | int], last: list[str | int]) -> str:
    """The place from a first to a last element: "/catalog/book[3-7]"."""
    tokens = [str(token) for token in first if token]
    others = [str(token) for token in last if token]
    for shared, (start, end) in enumerate(zip(tokens, others, strict=False)):
        if start != end:
            run = _RUN.fullmatch(f"{start} {end}")
            return joined(tokens[:shared] + ([f"{run[1]}[{run[2]}-{run[3]}]"] if run else []))
    return joined(min(tokens, others, key=len))

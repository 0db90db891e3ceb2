"""Renders data for an agent's prompt, within a budget of tokens.

JSON, YAML and TOON are a list of {"data_key", "description", "data"}, without empty descriptions,
and with `data` from `plain_value`; "deleted", "expired" or "erased", which is true, takes the place
of "data" where the fact is gone, and "left" where it no longer meets the agent's needs. They parse
back to exactly that, so that no payload or description can break out of its place or pass for
another datum.

Markdown has a heading for each datum, its description in one line that is neither heading nor
fence, and the payload, or "(deleted)" and the like. A payload can't leave its fence, which is
longer than any inside. But Markdown and plain text payloads are unfenced: they may contain
headings, or open a fence or comment that swallows what follows. Use another format if you don't
trust the publishers.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum
from math import inf
from typing import Any, NamedTuple

import orjson

from contex_server.kernel.model import DATA_EXPIRED, Change, Event, utf8_bytes
from contex_server.matching.formats.media import Format, media
from contex_server.matching.payload_values import LongInteger, plain_value, text_of
from contex_server.matching.tokens import TokenCounter

_REFITS = 8
"""How often to refill the room that is left where estimates were too high."""


class ContextFormat(IntEnum):
    """How data are rendered; the numbers are those of `contex.v1.ContextFormat`."""

    UNSPECIFIED = 0
    JSON = 1
    YAML = 2
    MARKDOWN = 3
    TOON = 4


class ContextItem(NamedTuple):
    """A datum's event, with the indices of the needs that it meets."""

    event: Event
    needs: frozenset[int]


@dataclass(frozen=True, slots=True)
class FittedContext:
    """The data that fit into a budget, best first."""

    kept: tuple[int, ...]  # indices
    tokens: int  # of `text`; of the JSON if no format was requested
    omitted: tuple[tuple[int, int], ...]  # index and own tokens of each
    text: str  # the kept data, rendered; empty if no format was requested


def render_one(event: Event, form: ContextFormat, change: Change | None = None) -> str:
    """Renders one datum: an object in JSON, YAML and TOON, a section in Markdown.

    `change` is what its delivery tells the agent, if it is one.
    """
    if form is ContextFormat.UNSPECIFIED:
        return ""
    if form is ContextFormat.YAML:
        return _yaml(_object(event, change))
    piece = _piece(event, form, change)
    return _toon(piece) if form is ContextFormat.TOON else str(piece)


def sizes_alone(
    events: Sequence[Event], form: ContextFormat, counter: TokenCounter
) -> list[tuple[int, int]]:
    """Tokens and bytes of each datum, rendered by itself as `fit_to_budget` does."""
    written = form or ContextFormat.JSON
    texts = (_join([_piece(event, written)], written) for event in events)
    return [(counter.count(text), utf8_bytes(text)) for text in texts]


def fit_to_budget(
    items: Sequence[ContextItem],
    budget: int | None,
    form: ContextFormat,
    counter: TokenCounter,
    max_bytes: int | None = None,
) -> FittedContext:
    """Selects the data that fit into a budget, each as a whole.

    Keeps everything if it fits. Otherwise keeps the best datum of each need, all of them if they
    fit together; then the best one that fits for each need that has none; then, by score, whatever
    still fits, skipping what does not. Whether a datum fits is estimated from its own tokens, which
    may differ a little from what it adds; the result itself is counted, and never exceeds the
    budget, except that the empty list is rendered whatever the budget.

    The items are given best first. The budget is the maximum tokens of the rendered text, and
    `max_bytes` that of its bytes; None is no limit. The format `UNSPECIFIED` counts as JSON.
    """
    written = form or ContextFormat.JSON
    pieces = [_piece(item.event, written) for item in items]
    most = _Size(*(inf if limit is None else limit for limit in (budget, max_bytes)))
    packing = _Packing(pieces, most, written, counter)
    everything = range(len(items))
    if not packing.add(everything):
        leaders = _leaders(items)
        if not packing.add(leaders):
            packing.fill(leaders)
        for need in sorted(frozenset().union(*[item.needs for item in items])):
            serving = {index for index in everything if need in items[index].needs}
            if packing.kept.isdisjoint(serving):
                packing.fill(serving, max_added=1)
        packing.fill(everything)
    kept = tuple(sorted(packing.kept))
    return FittedContext(
        kept,
        packing.tokens,
        tuple([(i, int(packing.cost(i).tokens)) for i in everything if i not in packing.kept]),
        packing.text if form else "",
    )


def _leaders(items: Sequence[ContextItem]) -> list[int]:
    """The best datum of each need, best first."""
    best: dict[int, int] = {}
    for index, item in enumerate(items):
        for need in item.needs:
            best.setdefault(need, index)
    return sorted(set(best.values()))


class _Size(NamedTuple):
    """How large a text is, or may be."""

    tokens: float
    size_bytes: float

    def fits(self, room: _Size) -> bool:
        return self.tokens <= room.tokens and self.size_bytes <= room.size_bytes

    def minus(self, other: _Size) -> _Size:
        return _Size(self.tokens - other.tokens, self.size_bytes - other.size_bytes)


class _Packing:
    """The data kept so far; they never exceed the budget."""

    def __init__(
        self, pieces: Sequence[Any], budget: _Size, form: ContextFormat, counter: TokenCounter
    ) -> None:
        self.kept: set[int] = set()
        self._pieces = pieces
        self._budget = budget
        self._form = form
        self._counter = counter
        self._costs: dict[int, _Size] = {}
        self._refused: set[int] = set()
        self._shares: dict[int, _Size] = {}
        self.text = _join([], form)
        self._taken = self._nothing = self._size(self.text)

    @property
    def tokens(self) -> int:
        """Tokens of the text."""
        return int(self._taken.tokens)

    def cost(self, index: int) -> _Size:
        """The size of a datum by itself."""
        if index not in self._costs:
            self._costs[index] = self._size(_join([self._pieces[index]], self._form))
        return self._costs[index]

    def _size(self, text: str) -> _Size:
        return _Size(self._counter.count(text), utf8_bytes(text))

    def add(self, indices: Sequence[int]) -> bool:
        """Keeps these too, if all of them fit."""
        kept = self.kept.union(indices)
        if kept == self.kept:
            return True
        text = _join([self._pieces[index] for index in sorted(kept)], self._form)
        size = self._size(text)
        if not size.fits(self._budget):
            return False
        self.kept, self.text, self._taken = kept, text, size
        return True

    def fill(self, candidates: Container[int], max_added: int | None = None) -> None:
        """Keeps each candidate that fits, in order, but no more than `max_added`."""
        for _ in range(_REFITS):
            room = self._budget.minus(self._taken)
            added: list[int] = []
            for index in range(len(self._pieces)):
                if len(added) == max_added:
                    break
                if index in self.kept or index in self._refused or index not in candidates:
                    continue
                if self.cost(index).fits(self._budget) and self._share(index).fits(room):
                    room = room.minus(self._share(index))
                    added.append(index)
            if not added:
                return
            # All of them if they fit, else by bisection as many as fit.
            fitting, beyond, probe = 0, len(added) + 1, len(added)
            while beyond - fitting > 1:
                if self.add(added[:probe]):
                    fitting = probe
                else:
                    beyond = probe
                probe = (fitting + beyond) // 2
            self._refused.update(added[fitting : fitting + 1])
            if max_added is not None and fitting:
                return

    def _share(self, index: int) -> _Size:
        """Estimates how much a datum adds."""
        if self._form is not ContextFormat.TOON:
            return self.cost(index).minus(self._nothing)
        if index not in self._shares:
            # A table has its header once: the second row is what a datum adds.
            twice = _join([self._pieces[index]] * 2, self._form)
            self._shares[index] = self._size(twice).minus(self.cost(index))
        return self._shares[index]


def _piece(event: Event, form: ContextFormat, change: Change | None = None) -> Any:
    """A datum, rendered as far as possible without the others."""
    if form is ContextFormat.MARKDOWN:
        return _section(event, change)
    value = _object(event, change)
    if form is ContextFormat.JSON:
        return _json(value)
    return _yaml([value]) if form is ContextFormat.YAML else value


def _join(pieces: Sequence[Any], form: ContextFormat) -> str:
    if form is ContextFormat.JSON:
        return f"[{','.join(pieces)}]"
    if form is ContextFormat.YAML:
        return "".join(pieces) or "[]\n"
    if form is ContextFormat.MARKDOWN:
        return "\n".join(pieces)
    return _toon(pieces)  # Uniform data become one table.


def _object(event: Event, change: Change | None) -> dict[str, Any]:
    described = {"description": event.description} if event.description else {}
    named = {"data_key": event.data_key or event.event_type, **described}
    if gone := _gone(event, change):
        return {**named, gone: True}
    return {**named, "data": plain_value(event.payload, event.content_type)}


def _gone(event: Event, change: Change | None) -> str:
    """What became of the fact, if the agent is to drop it: it must not take it for an empty text,
    or for one that it needs."""
    if change in (Change.LEFT, Change.ERASED, Change.WITHHELD):
        return change.name.lower()
    if event.deletes:
        return "expired" if event.event_type == DATA_EXPIRED else "deleted"
    return "erased" if event.erased else ""


def _json(value: Any) -> str:
    return orjson.dumps(value, default=_digits, option=orjson.OPT_PASSTHROUGH_SUBCLASS).decode()


def _digits(number: Any) -> orjson.Fragment:
    assert isinstance(number, LongInteger | Decimal)
    return orjson.Fragment(str(number))


# The writers of YAML and TOON are imported with the first context that asks for them: together
# they take a server's start 130 ms.
def _yaml(value: Any) -> str:
    from contex_server.matching.plain_yaml import to_yaml

    return to_yaml(value)


def _toon(value: Any) -> str:
    import toon_format

    return toon_format.dumps(value)


_TICKS = re.compile("`+")


def _section(event: Event, change: Change | None) -> str:
    """A datum in Markdown; ends with a newline."""
    parts = [f"## {event.data_key or event.event_type}\n"]
    description = " ".join(event.description.split())
    if description:
        # A backslash keeps it from starting a heading, quote, fence or HTML.
        escape = "\\" if description[0] in "#>`~<" else ""
        parts.append(f"{escape}{description}\n")
    kind = media(event.content_type)
    text = text_of(event.payload, kind)
    if gone := _gone(event, change):
        parts.append(f"({gone})\n")
    elif text is None:
        media_type = event.content_type.partition(";")[0].replace("`", "").strip()
        encoded = base64.b64encode(event.payload).decode()
        parts.append(_fenced(encoded, f"base64 {media_type}".strip()))
    elif kind.format in (Format.MARKDOWN, Format.TEXT):
        parts.append(text if text.endswith("\n") else f"{text}\n")
    else:
        parts.append(_fenced(text, kind.format or ""))
    return "\n".join(parts)


def _fenced(text: str, info: str) -> str:
    longest = max(map(len, _TICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    newline = "" if text.endswith("\n") or not text else "\n"
    return f"{fence}{info}\n{text}{newline}{fence}\n"

"""The options that several commands share."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import contex

from contex_cli import output as out
from contex_cli.exits import InputError
from contex_cli.parameters import UsageError, argument, option
from contex_cli.times import Place, parse_moment, parse_place, parse_since

T = TypeVar("T")
AGENT_ID = argument(..., "AGENT", "The agent's id.")
DATA_KEY = argument(..., "KEY", "The datum.")
AS_OF = option(
    None,
    "As of this sequence or time: 15:30, 'yesterday 15:30', '2h ago'. [default: now]",
    *("--at", "--as-of"),
    metavar="POSITION",
    parse=parse_moment,
)
KEYS = option(
    (),
    "Only data keys like this, with *, ? and \\ before what means itself. Repeatable.",
    "--key",
    metavar="GLOB",
)
THRESHOLD = option(None, "Lowest score that matches, above 0, at most 1. [default: the server's]")
BACKWARDS = option(False, "Newest first.")
PREFIX = option("", "Only data whose key starts with this.", metavar="TEXT")
MAX_TOKENS = option(
    None,
    "Tokens that the data may take when written out; the best are kept.",
    "--max-tokens",
    metavar="N",
)
FORMAT = option(None, "Print the data written out for a prompt instead.", "--format")
NEEDS_FILE = option(
    None,
    "A file of needs: .yaml or .json with a list of texts and of objects with text, threshold, "
    "max_matches and exclude; any other has one need a line, # starts a comment.",
    metavar="FILE",
)
EXCLUDE = option(
    (), "Data keys that never match these needs, with *, ? and \\. Repeatable.", metavar="GLOB"
)
_SINCE = "After this sequence, or from this time on: 2026-01-31T15:30:00Z, 15:30, '2h ago'."
_UNTIL = "Up to and including this sequence or time."
_POINTER = "Leave out updates that don't change the value at this JSON pointer. Repeatable."
_PAGE = 1_000
_NEED_KEYS = ("text", "threshold", "max_matches", "exclude")


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"{text!r} is not KEY=VALUE")
    return key, value


def exact_key(glob: str) -> str | None:
    """The one key that a glob stands for; None where it is a pattern."""
    if re.search(r"(?<!\\)(?:\\\\)*[*?]", glob):
        return None
    return re.sub(r"\\(.)", r"\1", glob)


@dataclass
class Range:
    """Where reading begins and ends, as the client's methods take it."""

    since: Place | None = option(None, _SINCE, metavar="POSITION", parse=parse_since)
    until: Place | None = option(None, _UNTIL, metavar="POSITION", parse=parse_place)


@dataclass
class Filter:
    """Which events are read, as the client's methods take it."""

    event_types: tuple[str, ...] = option(
        (), "Only events of this type. Repeatable.", "--type", metavar="TYPE"
    )
    data_keys: tuple[str, ...] = KEYS
    publishers: tuple[str, ...] = option(
        (), "Only from this publisher. Repeatable.", "--publisher", metavar="NAME"
    )
    event_type_prefixes: tuple[str, ...] = option(
        (),
        "Only types that begin with this, or are a --type. Repeatable.",
        "--type-prefix",
        metavar="TEXT",
    )
    metadata: tuple[tuple[str, str], ...] = option(
        (),
        "Only events with this in their metadata. Repeatable: all must be there.",
        "--meta",
        metavar="KEY=VALUE",
        parse=_pair,
    )
    exclude_service_events: bool = option(
        False, "Without what the service writes about itself.", "--no-service-events"
    )


@dataclass
class Selection(Filter, Range):
    """Where reading begins and ends, and which events are read."""


@dataclass
class Limit:
    """How much of a list is shown."""

    limit: int = option(100, "At most this many; 0: all.", "--limit", "-n", minimum=0)
    _has_more: bool = field(default=False, init=False)

    @property
    def page_size(self) -> int:
        """How many to ask for at once: one more than the limit tells whether there is more."""
        return min(self.limit + 1, _PAGE) if self.limit else _PAGE

    async def of(self, items: AsyncIterator[T]) -> AsyncIterator[T]:
        count = 0
        async for item in items:
            if self.limit and count == self.limit:
                self._has_more = True
                return
            count += 1
            yield item

    def remark(self, which: str = "first") -> None:
        """Says on stderr that there is more, if there is."""
        if self._has_more:
            verb = "is" if self.limit == 1 else "are"
            out.remark(f"the {which} {self.limit:,} {verb} shown; --limit 0 shows all")

    async def show(
        self, items: AsyncIterator[T], columns: out.Columns[T], nothing: str, *, as_json: bool
    ) -> None:
        """Prints a line each as they come for programs, or a table."""
        shown: list[T] = []
        async for item in self.of(items):
            if as_json:
                out.print_json(item)
            else:
                shown.append(item)
        if not as_json:
            out.show_table(shown, columns, nothing)
            self.remark()


@dataclass
class MinDelta:
    """Which updates are left out."""

    only_changes: bool | None = option(
        None,
        "Leave out updates that don't change the payload, or leave out none.",
        "--min-delta/--no-min-delta",
    )
    pointers: tuple[str, ...] = option((), _POINTER, "--min-delta-pointer", metavar="POINTER")

    def value(self) -> contex.MinDelta | None:
        """What the client takes; None where nothing was given."""
        if self.pointers and self.only_changes is False:
            raise UsageError("contradicts --no-min-delta", "--min-delta-pointer")
        if self.pointers:
            return contex.MinDelta(True, self.pointers)
        return None if self.only_changes is None else contex.MinDelta(self.only_changes)


def read_needs(
    needs: Sequence[str], file: str | None, exclude: Sequence[str] = ()
) -> list[str | contex.Need]:
    """The given needs and those of a file, in this order; without options they are texts."""
    specs: list[str | contex.Need] = list(needs)
    if file is not None:
        try:
            specs += _read_file(file)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"can't read {file!r}: {error}") from None
    if exclude and not specs:
        raise InputError("--exclude goes together with needs")
    return [_excluding(need, exclude) for need in specs] if exclude else specs


def _excluding(need: str | contex.Need, exclude: Sequence[str]) -> contex.Need:
    need = contex.Need(need) if isinstance(need, str) else need
    globs = dict.fromkeys((*need.exclude_data_keys, *exclude))
    return replace(need, exclude_data_keys=tuple(globs))


def _read_file(file: str) -> list[str | contex.Need]:
    with open(file, encoding="utf-8") as opened:
        text = opened.read()
    if not file.lower().endswith((".yaml", ".yml", ".json")):
        stripped = (line.strip() for line in text.splitlines())
        return [line for line in stripped if line and not line.startswith("#")]
    import json

    import yaml

    try:
        items = json.loads(text) if file.lower().endswith(".json") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"can't read {file!r}: {' '.join(str(error).split())}") from None
    if not isinstance(items, list):
        raise InputError(f"{file!r} is not a list of needs")
    return [_need(item, f"{file!r}, need {number}") for number, item in enumerate(items, 1)]


def _need(item: Any, place: str) -> str | contex.Need:
    if isinstance(item, str):
        return item
    if not isinstance(item, dict) or not isinstance(item.get("text"), str):
        raise InputError(f"{place}: neither a text nor an object with a text")
    if unknown := [key for key in item if key not in _NEED_KEYS]:
        known = ", ".join(_NEED_KEYS)
        raise InputError(f"{place}: unknown key {unknown[0]!r}; known are {known}")
    exclude = item.get("exclude") or []
    exclude = [exclude] if isinstance(exclude, str) else exclude
    if not isinstance(exclude, list) or not all(isinstance(glob, str) for glob in exclude):
        raise InputError(f"{place}: exclude is neither a glob nor a list of them")
    threshold, max_matches = item.get("threshold"), item.get("max_matches")
    if type(threshold) not in (float, int, type(None)):
        raise InputError(f"{place}: threshold is not a number")
    if max_matches is not None and (type(max_matches) is not int or max_matches < 1):
        raise InputError(f"{place}: max_matches is not a number from 1")
    return contex.Need(item["text"], threshold, max_matches, tuple(exclude))

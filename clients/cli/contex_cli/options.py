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
_MUTABLE = ("updated", "left", "deleted", "expired")
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
    "A file of needs: .yaml or .json with a list of texts and of objects with text or filter, "
    "threshold, max_matches and exclude; any other has one need a line, # starts a comment.",
    metavar="FILE",
)
FILTERS = option(
    (),
    "A need as a filter, such as 'key=orders/*, type-prefix=order.': key, type, type-prefix, "
    "publisher and meta (meta=KEY=VALUE), each as often as it takes, no-service-events, or "
    "'everything' alone. Repeatable.",
    "--filter",
    metavar="FILTER",
)
EXCLUDE = option(
    (), "Data keys that never match these needs, with *, ? and \\. Repeatable.", metavar="GLOB"
)
_SINCE = "After this sequence, or from this time on: 2026-01-31T15:30:00Z, 15:30, '2h ago'."
_UNTIL = "Up to and including this sequence or time."
_POINTER = "Leave out updates that don't change the value at this JSON pointer. Repeatable."
_PAGE = 1_000
_NEED_KEYS = ("text", "filter", "threshold", "max_matches", "exclude", "id")
"""The id follows from the text or filter: what `agents show` prints can be given again."""
_FILTER_LISTS = {
    "key": "data_keys",
    "type": "event_types",
    "type-prefix": "event_type_prefixes",
    "publisher": "publishers",
}
_NEXT_PART = re.compile(
    rf",\s*(?=(?:{'|'.join((*_FILTER_LISTS, 'meta'))})=|no-service-events\s*(?:,|$))"
)
"""A comma before a part of a filter; any other belongs to the value before it."""


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"{text!r} is not KEY=VALUE")
    return key, value


def parse_filter(text: str) -> contex.EventFilter:
    """A filter as it is written out, by `EventFilter.words` as well.

    Raises:
        ValueError: It is none.
    """
    if text.strip() == "everything":
        return contex.EventFilter()
    lists: dict[str, list[str]] = {name: [] for name in _FILTER_LISTS.values()}
    metadata: dict[str, str] = {}
    without_service = False
    for part in _NEXT_PART.split(text.strip()):
        name, _, value = part.partition("=")
        if name in _FILTER_LISTS and value:
            lists[_FILTER_LISTS[name]].append(value)
        elif name == "meta":
            metadata.update([_pair(value)])
        elif part == "no-service-events":
            without_service = True
        else:
            known = ", ".join(f"{name}=" for name in (*_FILTER_LISTS, "meta"))
            raise ValueError(f"{part!r} is no part of a filter; these are {known}")
    return contex.EventFilter(
        **{name: tuple(values) for name, values in lists.items()},
        metadata=metadata,
        exclude_service_events=without_service,
    )


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


def _kinds(text: str) -> tuple[contex.MatchKind, ...]:
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if names == ["none"]:
        return ()
    for name in names or [""]:
        if name not in _MUTABLE:
            raise ValueError(f"{name!r} is not one of {', '.join(_MUTABLE)}; or none")
    return tuple(map(contex.MatchKind, names))


@dataclass
class Muted:
    """Which deliveries an agent does without."""

    muted_kinds: tuple[contex.MatchKind, ...] | None = option(
        None,
        "Kinds of deliveries that it does without: updated,left,deleted,expired; or none.",
        "--mute",
        metavar="KINDS",
        parse=_kinds,
    )
    exclude_own: bool | None = option(
        None,
        "Don't deliver what the publisher that is named like the agent publishes, or do.",
        "--exclude-own/--include-own",
    )


def read_needs(
    needs: Sequence[str],
    file: str | None,
    exclude: Sequence[str] = (),
    filters: Sequence[str] = (),
) -> list[str | contex.Need]:
    """The given needs, filters, and those of a file, in this order; texts if without options."""
    specs: list[str | contex.Need] = list(needs)
    for text in filters:
        try:
            specs.append(contex.Need(filter=parse_filter(text)))
        except ValueError as error:
            raise UsageError(str(error), "--filter") from None
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
    if not isinstance(item, dict) or not isinstance(item.get("text") or item.get("filter"), str):
        raise InputError(f"{place}: neither a text nor an object with a text or a filter")
    if unknown := [key for key in item if key not in _NEED_KEYS]:
        known = ", ".join(_NEED_KEYS[:-1])
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
    wanted = None
    if item.get("filter") is not None:
        try:
            wanted = parse_filter(str(item["filter"]))
        except ValueError as error:
            raise InputError(f"{place}: {error}") from None
    text = item.get("text") or ""
    return contex.Need(text, threshold, max_matches, tuple(exclude), wanted)

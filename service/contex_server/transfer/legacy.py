"""What GET /api/projects/{id}/events of the former HTTP service returned:

{"events": [{"sequence": "…", "event_type": "data_published",
             "data": {"data_key": "…", "data": …, "description": "…"}}, …], "count": …}

as its documentation said. What its servers really wrote is:

{"sequence": "…", "event_type": "<data_key>_updated", "data": {"<data_key>": …}}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from contex_server.kernel import event_codec
from contex_server.kernel.config import Limits
from contex_server.kernel.model import (
    DATA_PUBLISHED,
    DELETIONS,
    SERVICE_TYPES,
    Entry,
    Event,
    Sequence,
)
from contex_server.transfer.cutting import BOM, MemberCutter
from contex_server.transfer.event_json import (
    check_values,
    dumps,
    line_bytes,
    loads,
    read_text,
)
from contex_server.transfer.items import (
    Events,
    Item,
    MalformedFile,
    Manifest,
    Place,
    Reader,
    Turn,
)

_BATCH = 500


class LegacyReader(Reader):
    """The events of one JSON object."""

    noun = "event"

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.fields = {"description": "data.description", "payload": "data"}
        self._limits = limits
        self._cutter = MemberCutter("events")
        self._began = False

    def feed(self, data: bytes) -> Iterator[Item | None]:
        if not self._began:
            self._began = True
            yield Manifest()
        turn = Turn()
        entries, places = list[Entry](), list[Place]()
        for piece in self._pieces(data):
            if piece:
                self.offset = self.offset or self._cutter.started_at
                places.append(Place(self.offset, self.item + 1))
                entries.append(self._read(piece))
                self.offset += len(piece)
                self.item += 1
            if not turn.over() and len(entries) < _BATCH:
                continue
            yield Events(entries, places) if entries else None
            entries, places = [], []
            turn.begin()
        if entries:
            yield Events(entries, places)
        if len(self._cutter.rest) > line_bytes(self._limits):
            raise self.malformed(f"more than {line_bytes(self._limits):,} bytes")

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        try:
            yield from self._cutter.feed(data)
        except ValueError as error:
            raise _no_response(error) from None

    def _read(self, piece: bytes) -> Entry:
        try:
            text = self._cutter.json(piece)
            check_values(text, self._limits)
            return event_codec.entry(_record(loads(text)))
        except KeyError as error:
            raise self.malformed(f"{error.args[0]}: is missing") from error
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise self.malformed(f"an invalid event: {error!s:.200}") from error

    def finish(self) -> Iterator[Item | None]:
        yield from self.feed(b"")
        try:
            answer = loads(self._cutter.finish().removeprefix(BOM))
            events, count = answer["events"], answer.get("count")
            if events != []:
                raise TypeError("events is not an array of objects")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _no_response(error) from None
        if count is not None and count != self.item:
            raise MalformedFile(f"count is {count!r:.20}, but there are {self.item} events", 0, 1)
        self.ended = True

    def state(self) -> None:
        return None


def _no_response(error: Exception) -> MalformedFile:
    missing = "is missing" if isinstance(error, KeyError) else ""
    problem = f"not a response of the former service: {error!s:.100} {missing}".rstrip()
    return MalformedFile(problem, 0, 1)


def _record(fields: dict[str, Any]) -> Event:
    sequence = Sequence.parse(str(fields["sequence"]))
    kind, data = read_text(fields, "event_type"), fields.get("data", {})
    if kind in SERVICE_TYPES or not isinstance(data, dict):
        return Event(sequence, kind, payload=dumps(data))
    updated = kind.removesuffix("_updated")
    if updated and updated != kind and list(data) == [updated]:
        return Event(sequence, DATA_PUBLISHED, data_key=updated, payload=dumps(data[updated]))
    if not data.get("data_key"):
        return Event(sequence, kind, payload=dumps(data))
    key = read_text(data, "data_key")
    if kind in DELETIONS:
        return Event(sequence, kind, data_key=key)
    if data.get("description") is None:
        data.pop("description", None)
    return Event(
        sequence,
        kind,
        data_key=key,
        payload=dumps(data.get("data")),
        description=read_text(data, "description"),
    )

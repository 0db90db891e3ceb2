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
from contex_server.kernel.model import (
    DATA_PUBLISHED,
    DELETIONS,
    SERVICE_TYPES,
    Entry,
    Event,
    Sequence,
)
from contex_server.transfer.cutting import BOM
from contex_server.transfer.event_json import dumps, loads, read_text
from contex_server.transfer.items import Events, Item, MalformedFile, Manifest, Place, Reader

_MAX_BYTES = 256 * 1024 * 1024


class LegacyReader(Reader):
    """The file is one JSON value, read once it is complete."""

    noun = "event"

    def __init__(self) -> None:
        super().__init__()
        self.fields = {"description": "data.description", "payload": "data"}
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Item]:
        self._data += data
        if len(self._data) > _MAX_BYTES:
            raise MalformedFile(f"more than {_MAX_BYTES >> 20} MiB of JSON", 0, 1)
        return iter(())

    def finish(self) -> Iterator[Item]:
        try:
            answer = loads(bytes(self._data.removeprefix(BOM)))
            events, count = answer["events"], answer.get("count")
            if not isinstance(events, list):
                raise TypeError("events is not an array")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            missing = "is missing" if isinstance(error, KeyError) else ""
            problem = f"not a response of the former service: {error!s:.100} {missing}".rstrip()
            raise MalformedFile(problem, 0, 1) from None
        if count is not None and count != len(events):
            raise MalformedFile(f"count is {count!r:.20}, but there are {len(events)} events", 0, 1)
        yield Manifest()
        entries, places = list[Entry](), list[Place]()
        for index, fields in enumerate(events):
            place = Place(0, index + 1)
            try:
                entries.append(event_codec.entry(_record(fields)))
            except KeyError as error:
                raise self.malformed(f"{error.args[0]}: is missing", place) from error
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                raise self.malformed(f"an invalid event: {error!s:.200}", place) from error
            places.append(place)
            self.item += 1
        if entries:
            yield Events(entries, places)
        self.ended = True
        self.offset = len(self._data)

    def state(self) -> None:
        return None


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

"""What GET /api/projects/{id}/events of the former HTTP service returned:

{"events": [{"sequence": "…", "event_type": "data_published",
             "data": {"data_key": "…", "data": …, "description": "…"}}, …], "count": …}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from contex_server.kernel import event_codec
from contex_server.kernel.model import DATA_PUBLISHED, RESERVED_TYPES, Event, Sequence
from contex_server.transfer.items import Events, Item, MalformedFile, Manifest, Reader

_MAX_BYTES = 256 * 1024 * 1024


class LegacyReader(Reader):
    """The file is one JSON value, read once it is complete."""

    def __init__(self) -> None:
        super().__init__()
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Item]:
        self._data += data
        if len(self._data) > _MAX_BYTES:
            raise MalformedFile(f"more than {_MAX_BYTES >> 20} MiB of JSON", 0, 1)
        return iter(())

    def finish(self) -> Iterator[Item]:
        try:
            answer = orjson.loads(bytes(self._data))
            events, count = answer["events"], answer.get("count")
            if not isinstance(events, list):
                raise TypeError("events is not an array")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MalformedFile(
                f"not a response of the former service: {error!s:.100}", 0, 1
            ) from None
        if count is not None and count != len(events):
            raise MalformedFile(f"count is {count!r:.20}, but there are {len(events)} events", 0, 1)
        yield Manifest()
        entries = []
        for index, fields in enumerate(events):
            try:
                entries.append(event_codec.entry(_record(fields)))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                problem = f"an invalid event: {error!s:.100}"
                raise MalformedFile(problem, 0, index + 1) from error
            self.item += 1
        if entries:
            yield Events(entries)
        self.ended = True
        self.offset = len(self._data)

    def state(self) -> None:
        return None


def _record(fields: dict[str, Any]) -> Event:
    kind, data = fields["event_type"], fields.get("data", {})
    if not isinstance(kind, str) or not kind:
        raise TypeError("event_type is not a string")
    key = data.get("data_key", "") if isinstance(data, dict) else ""
    if not key:
        return Event(Sequence.parse(str(fields["sequence"])), kind, payload=orjson.dumps(data))
    description = data.get("description") or ""
    if not isinstance(key, str) or not isinstance(description, str):
        raise TypeError("data_key or description is not a string")
    return Event(
        Sequence.parse(str(fields["sequence"])),
        kind if kind not in RESERVED_TYPES else DATA_PUBLISHED,
        data_key=key,
        payload=orjson.dumps(data.get("data")),
        description=description,
    )

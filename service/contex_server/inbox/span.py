"""Spans of the log in which nothing changes about who is matched, or how."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from contex_server.events.feed import Delivery
from contex_server.kernel import event_codec
from contex_server.kernel.model import SERVICE_TYPES, Sequence


def spans(
    deliveries: Iterable[Delivery], ends: Iterable[Sequence], most: int
) -> Iterator[list[Delivery]]:
    """Splits events after each that changes something, at some places, and into parts of `most`.

    Decodes the events.
    """
    places = iter(sorted(ends))
    place = next(places, None)
    part: list[Delivery] = []
    for delivery in deliveries:
        if delivery.event is None:
            delivery.event = event_codec.decode(delivery.entry)
        while place is not None and delivery.sequence > place:
            if part:
                yield part
                part = []
            place = next(places, None)
        part.append(delivery)
        if delivery.event.event_type in SERVICE_TYPES or len(part) == most:
            yield part
            part = []
    if part:
        yield part

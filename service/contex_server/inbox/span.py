"""Spans of the log in which nothing changes about who is matched, or how."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import Enum, auto

from contex_server.events.feed import Delivery
from contex_server.kernel import event_codec
from contex_server.kernel.model import Event


class Split(Enum):
    """Where spans are split at an event."""

    NONE = auto()
    AFTER = auto()
    AROUND = auto()
    """Before it, and after it."""


def spans(
    deliveries: Iterable[Delivery], splitter: Callable[[], Callable[[Event], Split]], most: int
) -> Iterator[list[Delivery]]:
    """Splits events where something changes, and into parts of `most`.

    Decodes the events. A new splitter is asked for with each span, once the one before it is
    decided.
    """
    part: list[Delivery] = []
    split = splitter()
    for delivery in deliveries:
        if delivery.event is None:
            delivery.event = event_codec.decode(delivery.entry)
        where = split(delivery.event)
        if where is Split.AROUND and part:
            yield part
            part = []
        part.append(delivery)
        if where is not Split.NONE or len(part) == most:
            yield part
            part, split = [], splitter()
    if part:
        yield part

"""Spans of the log in which nothing changes about who is matched, or how."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from contex_server.events.feed import Delivery
from contex_server.kernel import event_codec
from contex_server.kernel.model import Event


def spans(
    deliveries: Iterable[Delivery], ends: Callable[[], Callable[[Event], bool]], most: int
) -> Iterator[list[Delivery]]:
    """Splits events after each that changes something, and into parts of `most`.

    Decodes the events. `ends` is asked anew for each span, once the one before it is decided.
    """
    part: list[Delivery] = []
    is_end = ends()
    for delivery in deliveries:
        if delivery.event is None:
            delivery.event = event_codec.decode(delivery.entry)
        part.append(delivery)
        if is_end(delivery.event) or len(part) == most:
            yield part
            part, is_end = [], ends()
    if part:
        yield part

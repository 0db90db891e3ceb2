"""Where the log is split into spans that are decided as a whole."""

from __future__ import annotations

from contex_server.events.feed import Delivery
from contex_server.inbox.span import Split, spans
from contex_server.kernel import event_codec
from contex_server.kernel.model import Event, Sequence


def test_spans() -> None:
    splits = {"n": Split.NONE, "a": Split.AFTER, "x": Split.AROUND}

    def split(text: str, most: int = 100) -> list[str]:
        events = [Event(Sequence(1, n), kind) for n, kind in enumerate(text)]
        deliveries = [Delivery(event.sequence, event_codec.entry(event)) for event in events]
        found = spans(deliveries, lambda: lambda event: splits[event.event_type], most)
        return ["".join(d.event.event_type for d in part if d.event) for part in found]

    assert split("nnn") == ["nnn"]
    assert split("nna" + "an") == ["nna", "a", "n"]
    assert split("nxnxx") == ["n", "x", "n", "x", "x"]
    assert split("nnnnn", 2) == ["nn", "nn", "n"]
    assert split("") == []

"""Checks that the events of a file are a history: ascending, each linked to the one before it."""

from __future__ import annotations

import re
from collections.abc import Sequence as SequenceOf

import numpy as np

from contex_server.kernel import event_codec
from contex_server.kernel.model import BEGINNING, Entry, Links, Sequence

_NUMBER = rb"(?:0|[1-9]\d{0,18})"
_ID = _NUMBER + b"-" + _NUMBER
_IDS = re.compile(_ID + rb"(?:\n" + _ID + rb")*")

_VECTORIZE_FROM = 8
"""Fewer events are checked faster one by one."""


class ContinuityError(Exception):
    """The events are not a continuous history; the message says why."""


class Continuity:
    """The history read from a file so far.

    Attributes:
        last: The sequence of the last event.
        all_keys_known: Whether a key that was not seen yet is new. False when resuming an
            import that leaves out or renames keys.
        partial: Whether the file leaves out events, so that revisions have gaps.
    """

    def __init__(self) -> None:
        self.last = BEGINNING
        self.all_keys_known = True
        self.partial = False
        self._latest: dict[str, tuple[int, str]] = {}
        """Revision and sequence of the latest event of each key."""

    def add_latest(self, data_key: str, revision: int, sequence: Sequence) -> None:
        """Adds the latest event of a key, unless the key is known already."""
        if self.all_keys_known:
            self._latest.setdefault(data_key, (revision, str(sequence)))

    def check_order(self, entries: SequenceOf[Entry]) -> None:
        """Checks that sequences are valid and ascend, else raises `ContinuityError`."""
        if len(entries) < _VECTORIZE_FROM or not _ascend(
            [str(self.last).encode(), *[entry.id for entry in entries]]
        ):
            for entry in entries:
                sequence = _sequence(entry)
                if sequence <= self.last:
                    raise ContinuityError(f"{sequence} after {self.last}")
                self.last = sequence
        self.last = entries[-1].sequence

    def check_links(
        self, entries: SequenceOf[Entry], links: list[Links] | None = None
    ) -> list[Links]:
        """Checks that each event names the one before it of its key; parses and returns the links.

        Raises:
            ContinuityError: An event does not, or is not an event.
        """
        if links is None:
            try:
                links = [event_codec.decode_new(entry).links for entry in entries]
            except ValueError as error:
                raise ContinuityError(f"not an event: {error!s:.100}") from error
        latest = self._latest
        for entry, (key, revision, previous, *_) in zip(entries, links, strict=True):
            if not key:
                continue
            before = latest.get(key)
            latest[key] = (revision, entry.id.decode())
            if before is None:
                if not self.all_keys_known:
                    continue
                before = (0, "")
            if self.partial:
                follows = revision > before[0]
            else:
                follows = revision == before[0] + 1 and previous == before[1]
            if not follows:
                raise ContinuityError(
                    f"{entry.sequence} does not continue {key!r:.60} with revision {revision}"
                )
        return links


def _ascend(ids: SequenceOf[bytes]) -> bool:
    """Whether sequences ascend, in a quarter of the time of comparing them one by one. Also
    False where only comparing them one by one can tell."""
    text = b"\n".join(ids)
    if not _IDS.fullmatch(text):
        return False
    numbers = np.fromstring(text.replace(b"-", b"\n"), np.uint64, sep="\n").reshape(-1, 2)
    if len(numbers) != len(ids):
        return False
    ms, n = numbers[:, 0], numbers[:, 1]
    return bool(((ms[1:] > ms[:-1]) | ((ms[1:] == ms[:-1]) & (n[1:] > n[:-1]))).all())


def _sequence(entry: Entry) -> Sequence:
    try:
        sequence = Sequence.parse(entry.id.decode())
    except ValueError as error:
        raise ContinuityError(f"not an event: {error!s:.100}") from error
    if str(sequence).encode() != entry.id:
        raise ContinuityError(f"not an event: {entry.id!r:.60} should read {sequence}")
    return sequence

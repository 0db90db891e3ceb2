"""What makes the events of a file a history: each follows the last, and the last of its key."""

from __future__ import annotations

import re
from collections.abc import Sequence as SequenceOf

import numpy as np

from contex_server.kernel import event_codec
from contex_server.kernel.model import BEGINNING, Entry, Links, Sequence

_NUMBER = rb"(?:0|[1-9]\d{0,18})"
_ID = _NUMBER + b"-" + _NUMBER
_IDS = re.compile(_ID + rb"(?:\n" + _ID + rb")*")

_FEW = 8
"""So few are read faster one after the other."""


class Broken(Exception):
    """Events are no continuation; says why."""


class Continuity:
    """The events of a file so far.

    Args:

    Attributes:
        last: The sequence of the last.
        whole: Whether all keys are known that there were: not where an import is gone on with
            that leaves out or renames some.
        partial: Whether the file leaves out events, so that revisions are missing.
    """

    def __init__(self) -> None:
        self.last = BEGINNING
        self.whole = True
        self.partial = False
        self._latest: dict[str, tuple[int, str]] = {}
        """Revision and sequence of the latest event of each key."""

    def knows(self, data_key: str, revision: int, sequence: Sequence) -> None:
        """Takes in the latest event of a key, unless a later one is known."""
        if self.whole:
            self._latest.setdefault(data_key, (revision, str(sequence)))

    def order(self, entries: SequenceOf[Entry]) -> None:
        """Takes in the sequences of events, which ascend.

        Raises:
            Broken: They don't, or are none.
        """
        ids = [str(self.last).encode(), *[entry.id for entry in entries]]
        if len(entries) < _FEW or not _ascend(ids):
            for entry in entries:
                sequence = _sequence(entry)
                if sequence <= self.last:
                    raise Broken(f"{sequence} after {self.last}")
                self.last = sequence
        self.last = entries[-1].sequence

    def link(self, entries: SequenceOf[Entry]) -> list[Links]:
        """Takes in events, each of which names the one before it of its key; returns what is
        told of them.

        Raises:
            Broken: One does not, or is no event.
        """
        try:
            found = list(map(event_codec.links, entries))
        except ValueError as error:
            raise Broken(f"what is no event: {error!s:.100}") from error
        latest = self._latest
        for entry, (key, revision, previous, _, _, _) in zip(entries, found, strict=True):
            if not key:
                continue
            before = latest.get(key)
            latest[key] = (revision, entry.id.decode())
            if before is None:
                if not self.whole:
                    continue
                before = (0, "")
            if self.partial:
                follows = revision > before[0]
            else:
                follows = revision == before[0] + 1 and previous == before[1]
            if not follows:
                raise Broken(f"{entry.sequence} is no revision {revision} of {key!r:.60}")
        return found


def _ascend(ids: SequenceOf[bytes]) -> bool:
    """Whether sequences ascend, in a quarter of the time that reading one after the other
    takes; False also where it takes that to tell."""
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
        raise Broken(f"what is no event: {error!s:.100}") from error
    if str(sequence).encode() != entry.id:
        raise Broken(f"what is no event: {entry.id!r:.60} is not how {sequence} is written")
    return sequence

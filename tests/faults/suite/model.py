"""What publishers were told and followers were given, written down while it happens.

Plain values and no I/O, so that a run can be judged, and a judgement tested, without a server.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from contex import Durability, Receipt

END = "zip.end"
"""The key of each project's last event, published when all is quiet."""

TOLD = ("LOG_CHANGED", "SEQUENCE_IN_FUTURE")
"""The reasons by which a follower learns that its position is of another log."""

Place = tuple[int, int]
Tag = tuple[int, int]
"""An event's request, and its place in it; its payload holds both. (0, 0): not of the suite."""


def place(sequence: str) -> Place:
    """A sequence as numbers, in the log's order."""
    ms, _, n = sequence.partition("-")
    return int(ms), int(n or 0)


def tag_of(payload: bytes) -> Tag:
    """Which event of which request this is."""
    try:
        found = json.loads(payload)
        return int(found["request"]), int(found["number"])
    except (ValueError, TypeError, KeyError):
        return (0, 0)


@dataclass(frozen=True, slots=True)
class Entry:
    """An event as somebody read it."""

    sequence: str
    key: str
    revision: int
    tag: Tag
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The receipts of a request; a repeated one has several."""

    at: float
    receipts: tuple[Receipt, ...]


@dataclass(slots=True)
class Request:
    """Events that were published together.

    Attributes:
        expected: The revision that its only event expected.
        refusal: Why it was refused for good; then nothing of it is in the log.
    """

    number: int
    project: str
    publisher: str
    keys: tuple[str, ...]
    asked: Durability
    expected: int | None = None
    sent: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    refusal: str = ""


@dataclass(slots=True)
class Stretch:
    """What a follower was given from a place on, over all the calls that resumed it.

    Attributes:
        after: It begins after this sequence.
        ended: The reason for which it can't be resumed; empty while it can.
    """

    after: str
    entries: list[Entry] = field(default_factory=list)
    ended: str = ""


@dataclass(slots=True)
class Follower:
    """One that follows a project's log.

    Attributes:
        begins: What the keys of its events begin with; empty: it gets all events.
        agent: Whether it is an agent: it may also get what else matches.
        resumed: How often it went on from its cursor.
    """

    name: str
    project: str
    begins: tuple[str, ...] = ()
    agent: bool = False
    stretches: list[Stretch] = field(default_factory=list)
    resumed: int = 0

    def wants(self, key: str) -> bool:
        """Whether it gets the events of a key."""
        return not self.begins or key.startswith(self.begins)


@dataclass(slots=True)
class Injected:
    """A fault that was made.

    Attributes:
        loses: The durabilities of which receipts may be lost by it: those that were given
            from `loses_from` until it was mended.
    """

    kind: str
    victim: str
    began: float
    mended: float = float("inf")
    loses: frozenset[Durability] = frozenset()
    loses_from: float = 0.0

    def excuses(self, at: float, durability: Durability) -> bool:
        """Whether what was acknowledged then, with this durability, may be lost."""
        return durability in self.loses and self.loses_from <= at <= self.mended


class Model:
    """One run. Times are seconds since it began."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.began_ms = time.time() * 1_000
        self.requests: list[Request] = []
        self.followers: list[Follower] = []
        self.faults: list[Injected] = []
        self.oddities: list[str] = []
        """What should not have happened to anybody: defects in a server's log and the like."""
        self.revisions: dict[tuple[str, str], int] = {}

    def now(self) -> float:
        """The time."""
        return time.monotonic() - self._began

    def request(
        self,
        project: str,
        publisher: str,
        keys: Sequence[str],
        asked: Durability,
        expected: int | None = None,
    ) -> Request:
        """Notes a request that is about to be sent."""
        number = len(self.requests) + 1
        request = Request(number, project, publisher, tuple(keys), asked, expected, self.now())
        self.requests.append(request)
        return request

    def answered(self, request: Request, receipts: Sequence[Receipt]) -> None:
        """Notes its receipts."""
        request.answers.append(Answer(self.now(), tuple(receipts)))
        for key, receipt in zip(request.keys, receipts, strict=True):
            self.revisions[request.project, key] = receipt.revision

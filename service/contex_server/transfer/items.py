"""What files contain, and how they are read and written, whatever their format."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple, Self, TypeAlias

from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.event_rules import MAX_NUMBER
from contex_server.kernel.model import Entry, Sequence
from contex_server.kernel.names import PrintableName
from contex_server.log.agents import AgentRecord
from contex_server.log.inboxes import CarriedDecisions

_SHORT = PrintableName("manifest", 0, 1_024)


class FileFormat(IntEnum):
    """The numbers are those of `contex.v1.ExportFormat`."""

    NATIVE = 1
    JSON_LINES = 2
    CLOUD_EVENTS = 3
    PARQUET = 4
    LEGACY_JSON = 5


@dataclass(frozen=True, slots=True)
class Manifest:
    """The header of a file.

    Attributes:
        project: The project that was exported.
        cut: The log was exported up to this sequence.
        created: When, RFC 3339.
        partial: Whether events were left out, by a range or a filter.
        model: The embedding model of the vectors that follow, or "".
        events: Roughly how many events follow; 0 if unknown.
        bytes: Roughly how many bytes they have; 0 if unknown.
    """

    project: str = ""
    cut: str = ""
    created: str = ""
    partial: bool = False
    model: str = ""
    events: int = 0
    bytes: int = 0

    @classmethod
    def of_json(cls, fields: Mapping[str, Any]) -> Self:
        """Reads the fields of a file's manifest, ignoring unknown fields.

        Raises:
            ValueError: A field has the wrong type, or exceeds its limit.
        """
        known = {name: fields[name] for name in cls.__slots__ if name in fields}
        made = cls(**known)
        kinds = {name: type(value) for name, value in asdict(cls()).items()}
        for name, value in asdict(made).items():
            if type(value) is not kinds[name]:
                raise ValueError(f"{name} is {value!r:.40}")
            if isinstance(value, str):
                if not _SHORT.fits(value):
                    raise ValueError(f"{name} must be {_SHORT.limit}")
            elif not 0 <= value <= MAX_NUMBER:
                raise ValueError(f"{name} must be 0 to 2^53")
        return made


@dataclass(slots=True)
class Summary:
    """The trailer of a file; see `contex.v1.ExportSummary`."""

    cut: str = ""
    first: str = ""
    last: str = ""
    events: int = 0
    agents: int = 0
    vectors: int = 0
    digest: str = ""


class Place(NamedTuple):
    """Where an item is.

    Attributes:
        offset: In bytes from the beginning of the file.
        item: In which frame, line or event, from 1.
    """

    offset: int
    item: int


@dataclass(frozen=True, slots=True)
class Events:
    """Consecutive events.

    Attributes:
        places: Of each in the file; empty if they are all in the same item.
    """

    entries: list[Entry]
    places: list[Place] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Agents:
    """Registrations with their cursors."""

    records: list[AgentRecord]


@dataclass(frozen=True, slots=True)
class Decisions:
    """A part of what was decided for agents."""

    part: CarriedDecisions


@dataclass(frozen=True, slots=True)
class Vectors:
    """Encodings by digest."""

    encodings: dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Backgrounds:
    """Packed backgrounds by their events' sequences."""

    packed: dict[Sequence, bytes]


@dataclass(frozen=True, slots=True)
class SettingsItem:
    """The settings of the project."""

    retention: bytes


Item: TypeAlias = (
    Manifest | Events | Agents | Decisions | Vectors | Backgrounds | SettingsItem | Summary
)


class MalformedFile(Exception):
    """A file is damaged or not valid.

    Attributes:
        problem: What is wrong.
        offset: Where, in bytes from the beginning.
        item: In which frame, line or event, from 1.
        noun: What an item is called.
    """

    def __init__(self, problem: str, offset: int, item: int, noun: str = "item") -> None:
        super().__init__(f"{problem} (at byte {offset}, {noun} {item})")
        self.problem = problem
        self.offset = offset
        self.item = item

    def as_error(self) -> ContexError:
        """As an import reports it."""
        return ContexError(
            Reason.IMPORT_MALFORMED,
            f"the file can't be imported: {self}",
            metadata={"offset": str(self.offset), "item": str(self.item)},
            field="data",
        )


@dataclass(slots=True)
class Chain:
    """A digest over a sequence of pieces that can be stored and resumed after any of them.

    The state after a piece is the SHA-256 of the state before (32 zero bytes at first) and the
    piece.
    """

    state: bytes = field(default=bytes(32))

    def add(self, *piece: bytes) -> None:
        """Adds a piece, given in parts."""
        digest = hashlib.sha256(self.state)
        for part in piece:
            digest.update(part)
        self.state = digest.digest()

    @property
    def digest(self) -> str:
        """The state, in hexadecimal."""
        return self.state.hex()


class Writer:
    """Writes a file in pieces; only the native format holds more than events.

    Attributes:
        items: How many frames or lines were written.
    """

    def __init__(self) -> None:
        self.chain = Chain()
        self.items = 0

    def begin(self, manifest: Manifest) -> bytes:
        """The first piece."""
        raise NotImplementedError

    def events(self, entries: SequenceOf[Entry]) -> bytes:
        """Events, at least one."""
        raise NotImplementedError

    def agents(self, records: SequenceOf[AgentRecord]) -> bytes:
        """Registrations."""
        raise NotImplementedError

    def decisions(self, part: CarriedDecisions) -> bytes:
        """A part of what was decided for agents."""
        raise NotImplementedError

    def vectors(self, encodings: Mapping[bytes, bytes]) -> bytes:
        """Encodings."""
        raise NotImplementedError

    def backgrounds(self, packed: Mapping[Sequence, bytes]) -> bytes:
        """The backgrounds of scores."""
        raise NotImplementedError

    def settings(self, retention: bytes) -> bytes:
        """The settings of the project."""
        raise NotImplementedError

    def end(self, summary: Summary) -> bytes:
        """The last piece."""
        raise NotImplementedError


TURN_S = 0.005
"""For about so long, in processor time, a file is read before others have their turn."""


class Turn:
    """The time that a reader takes between two items."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begins the next one."""
        self._until = time.thread_time() + TURN_S

    def over(self) -> bool:
        """Whether others should have theirs; if so, the next one begins."""
        if time.thread_time() < self._until:
            return False
        self.begin()
        return True


class Reader:
    """Reads a file piece by piece.

    What it yields comes after a few milliseconds each: None where there is no item yet.

    Attributes:
        offset: Everything up to here was returned as items.
        item: The number of the last item, from 1.
        ended: Whether the summary was read.
        exported: Whether the file was exported by Contex.
        noun: What an item is called.
        fields: What the fields of events are called in it, where not as in `contex.v1.NewEvent`.
    """

    exported = False
    noun = "item"
    fields: Mapping[str, str] = {}

    def __init__(self) -> None:
        self.offset = 0
        self.item = 0
        self.ended = False
        self.chain = Chain()

    def feed(self, data: bytes) -> Iterator[Item | None]:
        """The items that are complete with these bytes.

        Raises:
            MalformedFile: The file is damaged.
        """
        raise NotImplementedError

    def finish(self) -> Iterator[Item | None]:
        """The remaining items, at the end of the file.

        Raises:
            MalformedFile: The file is truncated.
        """
        raise NotImplementedError

    def state(self) -> dict[str, Any] | None:
        """The state to resume from at `offset`; None if that is not possible there."""
        return {"item": self.item, "chain": self.chain.digest, "ended": self.ended}

    def resume(self, offset: int, state: Mapping[str, Any]) -> None:
        """Resumes at an offset."""
        self.offset = offset
        self.item = state["item"]
        self.ended = state["ended"]
        self.chain = Chain(bytes.fromhex(state["chain"]))

    def malformed(self, problem: str, place: Place | None = None) -> MalformedFile:
        """What is wrong with the item at a place, or with the next one."""
        offset, item = place or (self.offset, self.item + 1)
        return MalformedFile(problem, offset, item, self.noun)

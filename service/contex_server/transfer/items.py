"""What files hold, whatever they look like."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any, Protocol, Self, TypeAlias

from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import Entry
from contex_server.log.agents import AgentRecord


class FileFormat(IntEnum):
    """The numbers are those of `contex.v1.ExportFormat`."""

    NATIVE = 1
    JSON_LINES = 2
    CLOUD_EVENTS = 3
    PARQUET = 4
    LEGACY_JSON = 5


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a file says of itself, first.

    Attributes:
        project: The project that it was made of.
        cut: The log up to this sequence was exported.
        created: When, RFC 3339.
        partial: Whether events were left out, by a range or a filter.
        model: The embedding model of the vectors that follow, or "".
        events: About how many events follow; 0: not known.
        bytes: About how many bytes they have; 0: not known.
    """

    project: str = ""
    cut: str = ""
    created: str = ""
    partial: bool = False
    model: str = ""
    events: int = 0
    bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self)

    @classmethod
    def of_json(cls, fields: Mapping[str, Any]) -> Self:
        """Reads what `to_json` made; what is not known is left.

        Raises:
            ValueError: It is none.
        """
        known = {name: fields[name] for name in cls.__slots__ if name in fields}
        made = cls(**known)
        kinds = {name: type(value) for name, value in asdict(cls()).items()}
        for name, value in asdict(made).items():
            if type(value) is not kinds[name]:
                raise ValueError(f"{name} is {value!r:.40}")
        return made


@dataclass(frozen=True, slots=True)
class Summary:
    """What a file says of itself, last; see `contex.v1.ExportSummary`."""

    cut: str = ""
    first: str = ""
    last: str = ""
    events: int = 0
    agents: int = 0
    vectors: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Events:
    """Some consecutive events."""

    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Agents:
    """Registrations with their cursors."""

    records: list[AgentRecord]


@dataclass(frozen=True, slots=True)
class Vectors:
    """Encodings by digest."""

    encodings: dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class SettingsItem:
    """What was set for the project."""

    retention: bytes


Item: TypeAlias = Manifest | Events | Agents | Vectors | SettingsItem | Summary


class MalformedFile(Exception):
    """A file is damaged.

    Attributes:
        problem: What is wrong.
        offset: Where, in bytes from its beginning.
        item: In which frame or line, from 1.
    """

    def __init__(self, problem: str, offset: int, item: int) -> None:
        super().__init__(f"{problem} (at byte {offset}, item {item})")
        self.problem = problem
        self.offset = offset
        self.item = item

    def as_error(self) -> ContexError:
        """The refusal of an import."""
        return ContexError(
            Reason.IMPORT_MALFORMED,
            f"the file can't be imported: {self}",
            metadata={"offset": str(self.offset), "item": str(self.item)},
            field="data",
        )


@dataclass(slots=True)
class Chain:
    """A digest over pieces in their order that can be put down and taken up again.

    Each piece makes the next state: SHA-256 over the state before and the piece.
    """

    state: bytes = field(default=bytes(32))

    def add(self, *piece: bytes) -> None:
        """Takes in a piece, given in parts."""
        digest = hashlib.sha256(self.state)
        for part in piece:
            digest.update(part)
        self.state = digest.digest()

    @property
    def digest(self) -> str:
        """What it has come to, in hexadecimal."""
        return self.state.hex()


class Writer(Protocol):
    """Writes a file in pieces; the pieces joined are the file."""

    chain: Chain
    items: int
    """How many frames or lines were written."""

    def begin(self, manifest: Manifest) -> bytes:
        """The first piece."""
        ...

    def events(self, entries: SequenceOf[Entry]) -> bytes:
        """Some events, at least one."""
        ...

    def agents(self, records: SequenceOf[AgentRecord]) -> bytes:
        """Some registrations."""
        ...

    def vectors(self, encodings: Mapping[bytes, bytes]) -> bytes:
        """Some encodings."""
        ...

    def settings(self, retention: bytes) -> bytes:
        """What is set for the project."""
        ...

    def end(self, summary: Summary) -> bytes:
        """The last piece; the digest of the summary is filled in."""
        ...


class EventsOnly:
    """The part of a `Writer` whose format has no place for what is no event; nobody asks it for
    more, for that is refused before."""

    def agents(self, records: SequenceOf[AgentRecord]) -> bytes:
        """See `Writer.agents`."""
        raise NotImplementedError

    def vectors(self, encodings: Mapping[bytes, bytes]) -> bytes:
        """See `Writer.vectors`."""
        raise NotImplementedError

    def settings(self, retention: bytes) -> bytes:
        """See `Writer.settings`."""
        raise NotImplementedError


class Reader(Protocol):
    """Reads a file from pieces as they come.

    Attributes:
        offset: Everything up to here was read and handed out as items.
        item: The number of the last item, from 1.
        ended: Whether the file says that it is complete.
    """

    offset: int
    item: int
    ended: bool

    @property
    def exported(self) -> bool:
        """Whether it was exported by this service, and not made by somebody else."""
        ...

    def feed(self, data: bytes) -> Iterator[Item]:
        """The items that are complete with these bytes.

        Raises:
            MalformedFile: The file is damaged.
        """
        ...

    def finish(self) -> Iterator[Item]:
        """What is left at the end of the file.

        Raises:
            MalformedFile: It is cut off.
        """
        ...

    def state(self) -> dict[str, Any] | None:
        """What reading goes on from at `offset`; None where it can't there."""
        ...

    def resume(self, offset: int, state: Mapping[str, Any]) -> None:
        """Goes on at an offset."""
        ...

"""`contex publish`: one event, or a file of them over one stream."""

from __future__ import annotations

import asyncio
import os
import stat
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import contex

from contex_cli import drafts, files, pipes
from contex_cli import output as out
from contex_cli.command import Session, command
from contex_cli.exits import ExitCode, InputError, complain, complain_about, describe, exit_code
from contex_cli.parameters import UsageError, argument, option
from contex_cli.progress import Progress
from contex_cli.records import picked
from contex_cli.times import parse_end, parse_length

_NOT_DELETED = (
    *("VALUE", "--description", "--type", "--content-type", "--meta"),
    *("--valid-for", "--valid-until"),
)
"""What a deletion does not have."""
_REACHED = {"MEMORY": "memory", "FSYNC": "disk", "REPLICATED": "disk and a replica"}
_STATES = {state.value: state for state in contex.KeyState}
_DURABILITY = {level.name.lower(): level for level in contex.Durability}
BATCH_EVENTS = 256
BATCH_BYTES = 1024 * 1024
"""A batch is closed at either bound; the API allows 1,000 events and 8 MiB."""


@command("publish")
def publish(
    session: Session,
    data_key: str | None = argument(
        None, "KEY", "The datum; '' for an event of your own type without one."
    ),
    value: str | None = argument(None, "VALUE|-|@FILE", "The fact; - reads stdin."),
    description: str | None = option(
        None,
        "What the datum is, in plain words; '' removes it. [default: as it was]",
        "--description",
        "-d",
    ),
    event_type: str = option("", "An event type of your own.", "--type"),
    content_type: str | None = option(
        None, "Media type. By default JSON is recognised, then the file's suffix."
    ),
    metadata: tuple[str, ...] = option((), "Repeatable.", "--meta", metavar="KEY=VALUE"),
    expected_revision: int | None = option(
        None, "Refuse unless the key is at this revision; 0: never published.", minimum=0
    ),
    expected_state: contex.KeyState | None = option(
        None,
        "Refuse unless the key is absent (never published), present or deleted.",
        "--expect",
        metavar="STATE",
        parse=_STATES,
    ),
    valid_for: timedelta | None = option(
        None,
        "Let it expire so long after it was published: 90s, 10m, 1h30m, 2d. [default: it lasts]",
        metavar="LENGTH",
        parse=parse_length,
    ),
    valid_until: datetime | None = option(
        None,
        "Let it expire at this time: 18:00, '2030-01-31 10:00'.",
        metavar="TIME",
        parse=parse_end,
    ),
    delete: bool = option(False, "Delete the datum."),
    request_id: str | None = option(None, "Makes a repetition safe. [default: a new UUID]"),
    durability: contex.Durability | None = option(
        None, "memory, fsync or replicated. [default: fsync]", metavar="LEVEL", parse=_DURABILITY
    ),
    stream: str | None = option(
        None, "Publish every line of a JSON-lines file instead.", metavar="FILE|-"
    ),
    folder: str | None = option(
        None, "Publish every file below a folder instead, under its path.", "--dir", metavar="DIR"
    ),
    publisher: str = option("", "Who publishes.", env="CONTEX_PUBLISHER"),
) -> Awaitable[ExitCode]:
    """VALUE is published as JSON if it is JSON, otherwise as text.

    A line for --stream is an object with data_key, data (any JSON value; or payload_text, or
    payload_base64), and optionally description, event_type, content_type, metadata, tombstone,
    expected_revision or expected_state, and valid_for (seconds) or valid_until (a time as in RFC
    3339). Refused batches are reported; the others are published.

    With --dir the data key is the path below DIR, and the content type goes by the suffix. Hidden
    files are left out, symbolic links are not followed, and an empty file is an empty text.
    """
    single_only = {
        "KEY": data_key,
        "VALUE": value,
        "--description": None if description is None else True,
        "--type": event_type,
        "--content-type": content_type,
        "--meta": metadata,
        "--expected-revision": expected_revision,
        "--expect": expected_state,
        "--valid-for": valid_for,
        "--valid-until": valid_until,
        "--delete": delete,
        "--request-id": request_id,
    }
    given = [name for name, it in single_only.items() if it not in (None, "", False, ())]
    session.publisher = publisher
    if folder is not None:
        if given or stream is not None:
            raise UsageError(f"takes no {given[0] if given else '--stream'}", "--dir")
        return publish_folder(session, folder, durability)
    if stream is not None:
        if given:
            raise UsageError(f"{given[0]} goes into the lines of the file", "--stream")
        return publish_lines(session, stream, durability)
    if data_key is None:
        raise UsageError("missing; or use --stream or --dir", "KEY")
    if delete:
        for name in set(given) & set(_NOT_DELETED):
            raise UsageError(f"takes no {name}", "--delete")
    elif value is None:
        raise UsageError("missing; - reads stdin, @FILE a file", "VALUE")
    if valid_for is not None and valid_until is not None:
        raise UsageError("not together with --valid-until", "--valid-for")
    if description and not description.strip():
        raise UsageError("has only spaces; '' removes the description", "--description")
    fields: dict[str, Any] = {
        "expected_revision": expected_revision,
        "expected_state": expected_state,
        "durability": durability,
        "request_id": request_id or uuid.uuid4().hex,
    }
    if value is not None:
        payload, content_type = drafts.read_payload(value, content_type)
        fields |= {
            "payload": payload,
            "content_type": content_type,
            "description": description,
            "event_type": event_type,
            "metadata": drafts.parse_metadata(metadata),
            "valid_for": valid_for,
            "valid_until": valid_until,
        }
    return _publish(session, data_key, fields)


async def _publish(session: Session, data_key: str, fields: dict[str, Any]) -> ExitCode:
    client = session.client
    call: Any = client.publish if "payload" in fields else client.delete
    try:
        receipt: contex.Receipt = await call(session.project, data_key, **fields)
    except (contex.DeadlineExceeded, contex.Unavailable) as error:
        code = complain_about(error)
        complain(
            "whether it was published is not known; "
            f"repeating it with --request-id {fields['request_id']} is safe"
        )
        return code
    if session.json:
        answer = picked(receipt, "sequence", "revision", "duplicate")
        answer |= {"data_key": data_key, "durability": receipt.durability.name}
        out.print_json(answer | {"request_id": fields["request_id"]})
        return ExitCode.OK
    what = f"{out.plain(data_key)} revision {receipt.revision}" if data_key else "event"
    out.print_line(f"{what}  {receipt.sequence}  on {_REACHED[receipt.durability.name]}")
    requested = fields["durability"]
    if requested is not None and receipt.durability < requested:
        out.remark("there is no replica, or it did not confirm in time")
    if receipt.duplicate:
        out.remark("published before under this request id; nothing was appended now")
    return ExitCode.OK


@dataclass(frozen=True, slots=True)
class Batch:
    """Events to publish together, and the lines or files they come from."""

    events: list[contex.NewEvent]
    first_line: int
    last_line: int
    size_bytes: int
    files: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        if not self.files:
            return f"lines {self.first_line}-{self.last_line}"
        last = f" to {self.files[-1]!r}" if len(self.files) > 1 else ""
        return f"{self.files[0]!r}{last}"

    def one_by_one(self) -> list[Batch]:
        """The same events, each in a batch of its own."""
        each = self.size_bytes // len(self.events)
        pairs = zip(self.events, self.files, strict=True)
        return [Batch([event], 0, 0, each, (file,)) for event, file in pairs]


async def publish_lines(
    session: Session, source: str, durability: contex.Durability | None
) -> ExitCode:
    """Publishes every line of a file, or of stdin, and prints totals.

    Stops at a line that can't be read, after what came before has been published.
    """
    descriptor = pipes.open_source(source)
    status = os.fstat(descriptor)
    size = status.st_size if stat.S_ISREG(status.st_mode) else None
    left_out = Counter[str]()
    code = await publish_batches(session, batches(descriptor, left_out), size, durability)
    if count := left_out["expired"]:
        out.remark(f"expired facts left out (a deletion where one replaced another): {count:,}")
    return code


async def publish_folder(
    session: Session, folder: str, durability: contex.Durability | None
) -> ExitCode:
    """Publishes every file below a folder, and prints totals.

    A file that can't be read or is not what its suffix says is reported, and the others are
    published. The files of a refused batch are published again, one by one, so that only those
    at fault are missing.
    """
    found, links = files.below(folder)
    for name in links:
        out.remark(f"left out, as it is no regular file: {name!r}")
    problems: list[str] = []

    size = sum(path.size_bytes for path in found)
    code = await publish_batches(session, _packed(found, problems), size, durability, retries=True)
    for problem in problems:
        complain(problem)
    return code or (ExitCode.USAGE if problems else ExitCode.OK)


async def publish_batches(
    session: Session,
    source: AsyncIterator[Batch],
    size: int | None,
    durability: contex.Durability | None,
    *,
    retries: bool = False,
) -> ExitCode:
    """Publishes batches over one stream, and prints totals.

    `retries` sends the events of a batch that was refused as invalid again, one by one.
    """
    sent: deque[Batch] = deque()
    unreadable: list[InputError] = []
    singles: list[Batch] = []

    async def events() -> AsyncIterator[list[contex.NewEvent]]:
        try:
            async for batch in source:
                sent.append(batch)
                yield batch.events
        except InputError as error:
            unreadable.append(error)

    code = ExitCode.OK
    refused = published_batches = published_bytes = 0
    last_sequence = ""
    with Progress("published", shown=not session.json, bar=size is not None) as progress:
        is_over = False
        while not is_over:
            async with session.client.publish_stream(
                session.project, events(), durability=durability
            ) as results:
                async for result in results:
                    batch = sent.popleft()
                    many = len(batch.events) > 1
                    if retries and many and isinstance(result.error, contex.InvalidArgument):
                        singles += batch.one_by_one()
                        continue
                    if result.error is not None:
                        refused += len(batch.events)
                        code = code or exit_code(result.error)
                        complain(f"{batch.place} refused: {describe(result.error)}")
                        continue
                    published_batches += 1
                    published_bytes += batch.size_bytes
                    last_sequence = result.receipts[-1].sequence
                    published = progress.events + len(batch.events)
                    progress.reach(published, size or 0, done=published_bytes)
            is_over = not singles
            source, singles = _each(singles), []
    for error in unreadable:
        complain(f"{error}; nothing was read from there on")
        code = code or ExitCode.USAGE
    if session.json:
        counts = {"published": progress.events, "batches": published_batches, "refused": refused}
        seconds = round(progress.seconds, 3)
        out.print_json(counts | {"last_sequence": last_sequence, "seconds": seconds})
    else:
        counted = f"published {progress.events:,}  refused {refused:,}"
        out.print_line(f"{counted}  up to {last_sequence or '-'}")
    return code


async def _packed(paths: list[files.File], problems: list[str]) -> AsyncIterator[Batch]:
    """Batches of files, read as they are sent; notes those that can't be published."""
    events: list[contex.NewEvent] = []
    names: list[str] = []
    size_bytes = 0
    for path in paths:
        if events and (len(events) == BATCH_EVENTS or size_bytes + path.size_bytes > BATCH_BYTES):
            yield Batch(events, 0, 0, size_bytes, tuple(names))
            events, names, size_bytes = [], [], 0
        try:
            events.append(await asyncio.to_thread(path.read))
        except InputError as error:
            problems.append(str(error))
            continue
        names.append(path.data_key)
        size_bytes += path.size_bytes
    if events:
        yield Batch(events, 0, 0, size_bytes, tuple(names))


async def _each(batches: list[Batch]) -> AsyncIterator[Batch]:
    for batch in batches:
        yield batch


async def batches(descriptor: int, left_out: Counter[str] | None = None) -> AsyncIterator[Batch]:
    """Batches of what has arrived: a slow pipe is published line by line, a file in big pieces."""
    tail = b""
    number = 0
    while chunk := await pipes.read(descriptor):
        *lines, tail = (tail + chunk).split(b"\n")
        for batch in pack(lines, number, left_out):
            yield batch
        number += len(lines)
    if tail:
        for batch in pack([tail], number, left_out):
            yield batch


def pack(lines: list[bytes], before: int, left_out: Counter[str] | None = None) -> Iterator[Batch]:
    """Splits lines into batches, up to one that can't be read; `before` lines came before them."""
    events: list[contex.NewEvent] = []
    size_bytes = 0
    first = before + 1
    for number, line in enumerate(lines, before + 1):
        if events and (len(events) == BATCH_EVENTS or size_bytes + len(line) > BATCH_BYTES):
            yield Batch(events, first, number - 1, size_bytes)
            events, size_bytes, first = [], 0, number
        try:
            event = drafts.parse_line(line, left_out)
        except InputError as error:
            if events:
                yield Batch(events, first, number - 1, size_bytes)
            raise InputError(f"line {number}: {error}") from None
        size_bytes += len(line) + 1
        if event is not None:
            events.append(event)
    if events:
        yield Batch(events, first, before + len(lines), size_bytes)

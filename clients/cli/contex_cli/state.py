"""`contex state`, `diff`, `history` and `blame`: the data at a moment, and how they came to be."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import contex

from contex_cli import options
from contex_cli import output as out
from contex_cli.command import Session, command
from contex_cli.exits import ExitCode, complain
from contex_cli.parameters import UsageError, argument, option
from contex_cli.records import is_json, json_or_text, picked, record
from contex_cli.times import (
    Place,
    instant_text,
    misread_clock,
    moment_text,
    parse_place,
    read_place,
    rfc3339,
)

_KINDS = {"ADDED": ("+", "green"), "REMOVED": ("-", "red"), "CHANGED": ("~", "yellow")}
# Revisions next to each other are told apart; the newest is the brightest.
_NEWEST, _OTHERS = "bold yellow", ("cyan", "magenta", "green", "blue")
_VALUE = 200
_PATH = 100
_OPERATIONS = {
    "add": ("+", "green"),
    "remove": ("-", "red"),
    "replace": ("~", "yellow"),
    "move": (">", "cyan"),
    "copy": (">", "cyan"),
}
_LINES = {"+++": "bold", "---": "bold", "@@": "cyan", "+": "green", "-": "red"}
_OMITTED = {
    "BINARY": "one of the payloads is not text",
    "TOO_LARGE": "one of the payloads is too large",
    "TRIMMED": "the event before can no longer be read",
    "ERASED": "one of the payloads was erased or removed",
}


@command("state")
async def state(
    session: Session,
    data_keys: tuple[str, ...] = argument((), "KEY|GLOB", "Only these data. [default: all]"),
    more_keys: tuple[str, ...] = options.KEYS,
    as_of: Place | None = options.AS_OF,
    prefix: str = options.PREFIX,
    keys_only: bool = option(False, "Only keys, revisions and sequences.", "--keys"),
    deleted: bool = option(False, "Show deleted and expired keys too."),
) -> ExitCode:
    """One KEY shows the datum in full. Exits with 4 if a KEY without * or ? has no datum."""
    data_keys += more_keys
    missing = dict.fromkeys(key for glob in data_keys if (key := options.exact_key(glob)))
    shown: list[contex.Datum] = []
    async with session.client.stream_state(
        session.project,
        as_of=as_of,
        data_keys=data_keys,
        prefix=prefix,
        keys_only=keys_only,
        include_deleted=deleted,
    ) as data:
        async for datum in data:
            missing.pop(datum.data_key, None)
            if session.json:
                out.print_json(datum)
            else:
                shown.append(datum)
    if session.json:
        out.print_json({"summary": {"as_of": data.as_of, "data_count": data.data_count}})
    else:
        is_one = len(shown) == len(data_keys) == 1 and options.exact_key(data_keys[0])
        if is_one and shown[0].event is not None:
            _show_datum(shown[0].event)
        elif shown:
            out.print_table(_state_table(shown))
        count = out.counted(len(shown), "datum") if shown else "no data"
        out.say(f"{count}, as of {moment_text(data.as_of)}")
    for key in missing:
        complain(f"no datum {key!r} at that moment; `contex history` shows whether there was one")
    return ExitCode.NOT_FOUND if missing else ExitCode.OK


@command("get")
async def get(session: Session, key: str = argument(..., "KEY", "The data key.")) -> ExitCode:
    """Exits with 4 if there is none. `contex state KEY --as-of` shows it as it was."""
    keys = [contex.escape_glob(key)]
    state = await session.client.get_state(session.project, data_keys=keys)
    event = state[key].event if key in state else None
    if event is None:
        complain(f"there is no datum {key!r} in project {session.project}")
        return ExitCode.NOT_FOUND
    session.answer(state[key], lambda _: _show_datum(event))
    return ExitCode.OK


def _state_table(data: list[contex.Datum]) -> out.Table:
    columns: dict[str, str | Callable[[Any], Any]] = {"data key": "data_key", "rev": "revision"}
    if all(datum.event is None for datum in data):
        columns["sequence"] = lambda d: out.styled(
            d.sequence + ("  (deleted)" if d.deleted else "")
        )
    else:
        columns["time"] = lambda d: d.event.time
        columns["publisher"] = lambda d: out.publisher_text(d.event)
        columns["valid until"] = lambda d: d.event.valid_until
        columns["payload"] = lambda d: (
            "(omitted)" if d.payload_omitted else out.payload_preview(d.event)
        )
    return out.table_of(data, columns, lambda d: "dim" if d.deleted else "")


def _show_datum(event: contex.Event) -> None:
    """A datum in full: what is known about it, then the payload on its own."""
    facts = f"  revision {event.revision}  {rfc3339(event.time)}  {event.sequence}"
    by = f"  by {out.publisher_text(event)}" if event.publisher else ""
    out.say((out.plain(event.data_key), "bold"), facts, by, cut=True)
    if event.valid_until is not None:
        out.say((f"valid until {instant_text(event.valid_until)}", "dim"))
    if event.description:
        out.say((out.plain(event.description), "dim"))
    out.say()
    out.say_lines(out.payload_lines(event))
    out.say()


@command("diff")
async def diff(
    session: Session,
    base: Place = argument(..., "BASE", "The earlier moment: a sequence or time.", parse_place),
    words: tuple[str, ...] = argument(
        (),
        "[TARGET] [KEY|GLOB]",
        "The later moment, then the data. A word that is not a moment is a key; put `now` before "
        "a key that does.",
    ),
    prefix: str = options.PREFIX,
    brief: bool = option(False, "Only which data changed, without patches."),
) -> None:
    """JSON is compared as a JSON patch (RFC 6902), other text as a unified diff."""
    end, data_keys = _target_and_keys(words)
    answer = await session.client.diff_states(
        session.project,
        base,
        end,
        data_keys=data_keys,
        prefix=prefix,
        keys_only=session.json and brief,
        omit_patches=brief,
    )
    if not session.json:
        _show_diff(answer, brief)
        return
    for change in answer.changes:
        out.print_json(change)
    out.print_json({"summary": picked(answer, "base", "target", "added", "removed", "changed")})


def _target_and_keys(words: tuple[str, ...]) -> tuple[Place | None, tuple[str, ...]]:
    """Takes the first word as the later moment where it can be read as one."""
    if words[:1] == ("now",):
        return None, words[1:]
    if words and (problem := misread_clock(words[0])):
        raise UsageError(f"{words[0]!r} is not a time: {problem}; for a key, put `now` before it")
    moment = read_place(words[0]) if words else None
    return (None, words) if moment is None else (moment, words[1:])


def _show_diff(answer: contex.StateDiff, brief: bool) -> None:
    for change in answer.changes:
        _show_change(change)
        sides = (change.before, change.after)
        if any(side and side.event and side.event.erased for side in sides):
            out.say("    ", ("(no patch: one of the payloads was erased)", "dim"))
        elif not brief:
            out.say_lines(patch_lines(change.patch), "    ")
    if answer.changes:
        out.say()
    out.say(f"{answer.added:,} added, {answer.removed:,} removed, {answer.changed:,} changed")
    out.say(f"from {moment_text(answer.base)}")
    out.say(f"to   {moment_text(answer.target)}")


def _show_change(change: contex.Change) -> None:
    mark, style = _KINDS.get(change.kind.name, ("?", ""))
    before, after = change.before, change.after
    shown = after or before
    if shown is None:
        return
    facts = f"  r{shown.revision}"
    if before is not None and after is not None:
        facts = f"  r{before.revision} → r{after.revision}"
    if shown.event is not None and after is not None and shown.event.publisher:
        facts += f"  by {out.publisher_text(shown.event)}"
    if shown.event is not None and (
        before is None or after is None or shown.event.erased is not None
    ):
        facts += f"  {out.payload_preview(shown.event, 80)}"
    out.say((f"{mark} {out.plain(change.data_key)}", f"bold {style}"), facts, cut=True)


def patch_lines(patch: contex.Patch | None) -> list[out.Text]:
    """A patch as lines: an operation or a line of the diff each, or why there is none."""
    if patch is None:
        return []
    if patch.omitted is not None:
        name = patch.omitted.name
        return [out.styled(f"(no patch: {_OMITTED.get(name, name.lower())})", "dim")]
    if patch.json_patch is not None:
        lines = list(map(operation_line, patch.operations))
    elif patch.unified_diff:
        lines = list(map(diff_line, patch.unified_diff.rstrip("\n").split("\n")))
    else:
        lines = []
    return lines or [out.styled("(the payload is the same)", "dim")]


def operation_line(operation: Mapping[str, Any]) -> out.Text:
    """One operation of a JSON patch: what it does, where, and the value."""
    name = str(operation.get("op", ""))
    mark, style = _OPERATIONS.get(name, ("?", ""))
    line = out.styled(f"{mark} {name:<7} ", style)
    if "from" in operation:
        line.append(f"{_pointer(operation['from'])} → ")
    line.append(_pointer(operation.get("path")))
    if "value" in operation:
        value = json.dumps(operation["value"], ensure_ascii=False)
        line.append("  ").append(out.plain(value, _VALUE), style)
    return line


def _pointer(path: Any) -> str:
    return out.plain(str(path or ""), _PATH) or "(the whole)"


def diff_line(line: str) -> out.Text:
    style = next((style for start, style in _LINES.items() if line.startswith(start)), "")
    return out.styled(out.printable(line), style)


@command("history")
async def history(
    session: Session,
    data_key: str = options.DATA_KEY,
    as_of: Place | None = options.AS_OF,
    revision: int | None = option(
        None, "Only this revision, with its payload in full.", metavar="N", minimum=1
    ),
    brief: bool = option(False, "A line for each, without patches and payloads."),
    *,
    limit: options.Limit,
) -> None:
    """Newest first, each with its publisher, time and the patch from the one before."""
    if revision is not None:
        if as_of is not None:
            raise UsageError("a revision is the same at any moment", "--at")
        session.answer(
            await session.client.get_revision(session.project, data_key, revision),
            _show_whole_revision,
        )
        return
    revisions = session.client.history(
        session.project,
        data_key,
        as_of=as_of,
        omit_patches=brief,
        omit_payloads=brief,
        page_size=limit.page_size,
    )
    async for item in limit.of(revisions):
        session.answer(item, _show_brief if brief else _show_revision)
        out.flush()
    limit.remark("newest")


def _show_brief(revision: contex.Revision) -> None:
    erased = revision.event.erased
    _show_headline(revision, "" if erased is None else f"  {out.erasure_text(erased)}")


def _show_headline(revision: contex.Revision, more: str = "") -> None:
    event = revision.event
    facts = f"  {rfc3339(revision.time)}  {event.sequence}"
    if event.event_type != "data_published":
        facts += f"  {out.plain(event.event_type)}"
    if event.publisher:
        facts += f"  by {out.publisher_text(event)}"
    if event.valid_until is not None:
        facts += f"  until {rfc3339(event.valid_until)}"
    out.say((f"r{event.revision}", "bold yellow"), facts + more, cut=True)


def _show_revision(revision: contex.Revision) -> None:
    _show_headline(revision)
    lines = patch_lines(revision.patch)
    if revision.event.erased is not None or (not lines and revision.event.payload):
        lines = [out.styled(out.payload_preview(revision.event, 1_000))]
    out.say_lines(lines, "    ")
    out.say()


def _show_whole_revision(revision: contex.Revision) -> None:
    _show_revision(revision)
    if revision.event.erased is None:
        out.say_lines(out.payload_lines(revision.event))


@command("blame")
async def blame(
    session: Session, data_key: str = options.DATA_KEY, as_of: Place | None = options.AS_OF
) -> None:
    answer = await session.client.blame(session.project, data_key, as_of=as_of)
    event = answer.event
    if session.json:
        for part in answer.parts:
            # What claims to be JSON may still have been blamed line by line.
            value = json_or_text(part.value) if is_json(event.content_type) else part.value
            out.print_json(record(part) | {"value": value})
        about = picked(event, "data_key", "sequence", "revision")
        if event.erased is not None:
            about["erased"] = event.erased
        out.print_json({"summary": about | picked(answer, "as_of", "truncated")})
        return
    if event.erased is not None:
        out.say_lines(out.payload_lines(event))
    else:
        out.print_table(blame_table(answer))
    out.say(f"{out.plain(event.data_key)} r{event.revision}, as of {moment_text(answer.as_of)}")
    if answer.truncated:
        out.remark(
            "what the oldest revision shown is said to have set may be older: "
            "the revisions before it were not read"
        )


def blame_table(blame: contex.Blame) -> out.Table:
    """A row for each part; those of one revision share a colour."""
    newest = blame.event.revision
    older = sorted({part.revision for part in blame.parts} - {newest}, reverse=True)
    colours = {revision: _OTHERS[i % len(_OTHERS)] for i, revision in enumerate(older)}

    def in_colour(text: str, part: contex.BlamedPart) -> out.Text:
        return out.styled(text, colours.get(part.revision, _NEWEST))

    return out.table_of(
        blame.parts,
        {
            "rev": lambda part: in_colour(f"r{part.revision}", part),
            "time": lambda part: in_colour(rfc3339(part.time), part),
            "publisher": lambda part: in_colour(out.publisher_text(part), part),
            "path": lambda part: out.plain(part.path, _PATH) or "(the whole)",
            # A line keeps its indentation.
            "value": lambda p: out.styled(out.shortened(out.printable(p.value), _VALUE)),
        },
    )

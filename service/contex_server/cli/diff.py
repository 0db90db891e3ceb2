"""`contex diff`: what changed between two moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from contex_server.cli import options
from contex_server.cli.moments import moment_text
from contex_server.cli.output import (
    assembled,
    console,
    payload_preview,
    plain,
    print_cut,
    print_json,
)
from contex_server.cli.patches import patch_lines
from contex_server.cli.positions import Place, parse_position, read_position
from contex_server.cli.running import run
from contex_server.cli.time_records import change_record, diff_summary

if TYPE_CHECKING:
    from contex import Change, StateDiff

_KINDS = {"ADDED": ("+", "green"), "REMOVED": ("-", "red"), "CHANGED": ("~", "yellow")}


def diff(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="The earlier moment: a sequence or time.")
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TARGET] [KEY|GLOB]",
            help="The later moment, then the data. What doesn't read as a moment is a key; "
            "put `now` before a key that does.",
        ),
    ] = None,
    prefix: options.Prefix = "",
    brief: Annotated[
        bool, typer.Option("--brief", help="Only which data changed, without patches.")
    ] = False,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Show what changed between two moments.

    Of JSON the operations of a JSON patch (RFC 6902), of other text a unified diff.
    """
    start = parse_position(base, "BASE")
    if start is None:
        raise typer.BadParameter("missing", param_hint="BASE")
    end, data_keys = _target_and_keys(words or [])

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            found = await client.diff_states(
                project,
                start,
                end,
                data_keys=data_keys,
                prefix=prefix,
                keys_only=as_json and brief,
                omit_patches=brief,
            )
        if as_json:
            for change in found.changes:
                print_json(change_record(change))
            print_json(diff_summary(found))
        else:
            _show_diff(found, brief)

    run(work())


def _target_and_keys(words: list[str]) -> tuple[Place | None, list[str]]:
    """Takes the first word as the later moment where it can be read as one."""
    if words[:1] == ["now"]:
        return None, words[1:]
    moment = read_position(words[0]) if words else None
    return (None, words) if moment is None else (moment, words[1:])


def _show_diff(found: StateDiff, brief: bool) -> None:
    for change in found.changes:
        _show_change(change)
        if not brief:
            for line in patch_lines(change.patch):
                console().print(assembled("    ", line))
    if found.changes:
        console().print()
    console().print(
        f"{found.added:,} added, {found.removed:,} removed, {found.changed:,} changed",
        markup=False,
    )
    console().print(f"from {moment_text(found.base)}", markup=False)
    console().print(f"to   {moment_text(found.target)}", markup=False)


def _show_change(change: Change) -> None:
    mark, style = _KINDS.get(change.kind.name, ("?", ""))
    before, after = change.before, change.after
    shown = after or before
    if shown is None:
        return
    facts = f"  r{shown.revision}"
    if before is not None and after is not None:
        facts = f"  r{before.revision} → r{after.revision}"
    if shown.event is not None and after is not None and shown.event.publisher:
        facts += f"  by {plain(shown.event.publisher)}"
    if shown.event is not None and (before is None or after is None):
        facts += f"  {payload_preview(shown.event, 80)}"
    print_cut(assembled((f"{mark} {plain(change.data_key)}", f"bold {style}"), facts))

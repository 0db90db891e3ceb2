"""`contex stats`: a project in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from contex_server.cli import options
from contex_server.cli.output import cell, console, plain, print_json, table
from contex_server.cli.records import rfc3339
from contex_server.cli.running import run
from contex_server.cli.time_records import stats_record

if TYPE_CHECKING:
    from contex import Stats
    from rich.table import Table

_BEGINNING = "0-0"
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def stats(
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Show a project's size, positions and rate."""

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            found = await client.stats(project)
        if as_json:
            print_json(stats_record(found))
        else:
            _show(found)

    run(work())


def _show(stats: Stats) -> None:
    console().print(rows_table(stats_rows(stats)))
    for warning in stats.warnings:
        console().print(f"warning: {plain(warning)}")


def rows_table(rows: Mapping[str, str]) -> Table:
    """Names and what they stand for."""
    result = table("", "")
    result.show_header = False
    for name, value in rows.items():
        result.add_row(name, cell(value))
    return result


def stats_rows(stats: Stats) -> dict[str, str]:
    """What is told of a project, line by line."""
    counted = ""
    if stats.counted_since not in ("", _BEGINNING):
        counted = f", counted since {sequence_text(stats.counted_since)}"
    rows = {
        "events": f"{stats.event_count:,}, {size_text(stats.event_bytes)} appended{counted}",
        "first": sequence_text(stats.first_sequence),
        "last": sequence_text(stats.last_sequence),
        "rate": f"{stats.events_per_second:,.2f} events a second over the last minute",
        "data keys": f"{stats.data_key_count:,}, and {stats.deleted_key_count:,} deleted",
        "agents": f"{stats.agent_count:,}",
        "streams": f"{stats.subscriber_count:,} Subscribe, {stats.listener_count:,} Listen",
        "snapshots": "none yet",
        "archived": "nothing",
    }
    if stats.snapshot_sequence:
        rows["snapshots"] = (
            f"{stats.snapshot_count:,}, {size_text(stats.snapshot_bytes)}, "
            f"the newest at {sequence_text(stats.snapshot_sequence)}"
        )
    if stats.archived_sequence:
        rows["archived"] = (
            f"{stats.archive_event_count:,} events in {stats.segment_count:,} segments, "
            f"{size_text(stats.archive_bytes)}, up to {sequence_text(stats.archived_sequence)}"
        )
        rows["in the store"] = f"{stats.store_event_count:,} events"
    if stats.removed_event_count:
        rows["removed"] = f"{stats.removed_event_count:,} events, for good"
    return rows


def sequence_text(sequence: str) -> str:
    """A sequence and the time that it holds."""
    from datetime import UTC, datetime, timedelta

    if sequence in ("", _BEGINNING):
        return "none"
    unix_ms = int(sequence.partition("-")[0])
    time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=unix_ms)
    return f"{sequence}  {rfc3339(time)}"


def size_text(size_bytes: int) -> str:
    """Bytes in the unit in which they have up to four digits before the point."""
    size = float(size_bytes)
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            break
        size /= 1024
    return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"

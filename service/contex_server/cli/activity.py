"""`contex activity`: how many events there were, over time."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from contex_server.cli import options
from contex_server.cli.bars import bar, columns, fitted, sparkline
from contex_server.cli.files import written
from contex_server.cli.output import (
    assembled,
    cell,
    console,
    error_console,
    plain,
    print_json,
    styled,
    table,
)
from contex_server.cli.positions import Place, parse_moment, parse_position
from contex_server.cli.running import run
from contex_server.cli.time_records import activity_record

if TYPE_CHECKING:
    from contex import Activity
    from rich.table import Table


_HEIGHT = 6
_WIDTH = 72
_BAR = 16
_SPARK = 60
_NAME = 48
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_LENGTH = re.compile(r"(\d{1,7})(s|m|min|h|d|w)?")
_NAMES = {"data_key": "data key", "event_type": "event type"}


class Dimension(StrEnum):
    """What events are counted by, in short."""

    TOTAL = "total"
    KEY = "key"
    TYPE = "type"
    PUBLISHER = "publisher"
    NEED = "need"


_DIMENSIONS = {Dimension.KEY: "DATA_KEY", Dimension.TYPE: "EVENT_TYPE"}


def activity(
    by: Annotated[
        Dimension, typer.Option("--by", help="Count all together, or by this.")
    ] = Dimension.TOTAL,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="GLOB", help="Only these keys, types and so on. Repeatable."
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="POSITION",
            help="From this time on: 'yesterday', '2h ago'. [default: 24 hours before the end]",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="POSITION", help="Up to this time. [default: now]")
    ] = None,
    bucket: Annotated[
        str | None,
        typer.Option(
            metavar="LENGTH",
            help="Length of a bucket, 1m at least: 5m, 1h, 1d. [default: about 60 of them]",
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(min=1, max=100, metavar="N", help="So many names, the busiest.")
    ] = 10,
    png: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw a chart as a picture, too.")
    ] = None,
    html: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write a page with a chart and its numbers, too."),
    ] = None,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Show how many events there were, over time.

    With bars and sparklines; --png and --html need the extra "charts" of this package.
    """
    start, end = parse_position(since, "--since"), parse_moment(until, "--until")
    bucket_seconds = parse_length(bucket) if bucket is not None else 0
    offset = _utc_offset_minutes(end)

    async def work() -> None:
        if png is not None or html is not None:
            from contex_server.cli.charts import require_charts

            require_charts()
        from contex import ActivityDimension

        async with options.connect(target, timeout) as client:
            found = await client.activity(
                project,
                ActivityDimension[_DIMENSIONS.get(by, by.name)],
                since=start,
                until=end,
                bucket_seconds=bucket_seconds,
                names=names or (),
                top=top,
                utc_offset_minutes=offset,
            )
        if as_json:
            print_json(activity_record(found, by.value, offset))
        else:
            show(found, project, by, offset)
        if png is not None or html is not None:
            _draw(found, project, by, offset, png, html)

    run(work())


def parse_length(text: str) -> int:
    """Seconds of a length such as "90s", "5m", "1h" or "1d".

    Raises:
        typer.BadParameter: It is no length.
    """
    found = _LENGTH.fullmatch(text.strip().lower())
    if found is None or not int(found[1]):
        raise typer.BadParameter(
            f"{text!r} is no length such as 5m, 1h or 1d", param_hint="--bucket"
        )
    return int(found[1]) * _UNITS[found[2] or "s"]


def length_text(seconds: int) -> str:
    """A length in the largest unit of which it is a multiple."""
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds % size == 0:
            count = seconds // size
            return unit if count == 1 else f"{count:,} {unit}s"
    return f"{seconds:,} seconds"


def _utc_offset_minutes(end: Place | None) -> int:
    """How far local time was ahead of UTC at the end of the range."""
    at = end if isinstance(end, datetime) else datetime.now()
    offset = at.astimezone().utcoffset() or timedelta()
    return round(offset.total_seconds() / 60)


def zone_of(utc_offset_minutes: int) -> timezone:
    """The zone that an answer's hours and days are of."""
    return timezone(timedelta(minutes=utc_offset_minutes))


def range_text(activity: Activity, utc_offset_minutes: int) -> str:
    """Range and zone: where the first bucket begins and the last one ends."""
    zone = zone_of(utc_offset_minutes)
    start, end = activity.start_time.astimezone(zone), activity.end_time.astimezone(zone)
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} {zone}"


def show(activity: Activity, project: str, by: Dimension, offset: int) -> None:
    """Prints all together as columns, the names as sparklines, and the hours of the day."""
    total = activity.total
    console().print(
        assembled(
            (plain(project), "bold"),
            f"  {total.total:,} events, {range_text(activity, offset)}, "
            f"by the {length_text(activity.bucket_seconds)}",
        )
    )
    console().print()
    if not total.total:
        console().print("no events in this range")
        return
    for line in _columns_lines(activity, offset):
        console().print(line)
    console().print()
    if by is not Dimension.TOTAL:
        console().print(series_table(activity, _heading(by)))
        left_out = activity.name_count - len(activity.series)
        if left_out > 0:
            error_console().print(f"{left_out:,} more are not shown; --top shows up to 100")
    if any(activity.peak_hours):
        for line in _hours_lines(activity.peak_hours, str(zone_of(offset))):
            console().print(line)


def _heading(by: Dimension) -> str:
    name = _DIMENSIONS.get(by, by.name).lower()
    return _NAMES.get(name, name)


def _columns_lines(activity: Activity, offset: int) -> list[str]:
    counts = fitted(activity.total.counts, _WIDTH)
    most = max(counts, default=0)
    scale = f"{most:,}"
    lines = columns(counts, _HEIGHT)
    margin = [scale, *[""] * (_HEIGHT - 2), "0"]
    drawn = [f"{label:>{len(scale)}} │{line}" for label, line in zip(margin, lines, strict=True)]
    drawn.append(" " * len(scale) + " └" + "─" * len(counts))
    drawn.append(" " * (len(scale) + 2) + _time_axis(activity, offset, len(counts)))
    return drawn


def _time_axis(activity: Activity, offset: int, width: int) -> str:
    """Where the range begins, its middle and where it ends, below the columns."""
    zone = zone_of(offset)
    start, end = activity.start_time.astimezone(zone), activity.end_time.astimezone(zone)
    span = end - start
    if span <= timedelta(days=2):
        form = "%H:%M" if span <= timedelta(days=1) else "%d %b %H:%M"
    else:
        form = "%d %b" if span <= timedelta(days=300) else "%b %Y"
    left, middle, right = (f"{at:{form}}" for at in (start, start + span / 2, end))
    if width < len(left + middle + right) + 4:
        return f"{left} … {right}"
    gap = width // 2 - len(left) - len(middle) // 2
    line = left + " " * gap + middle
    return line + right.rjust(width - len(line))


def series_table(activity: Activity, heading: str) -> Table:
    """A row for each name: how many, their share as a bar, and when as a sparkline."""
    result = table(heading, "events", "share", "", "over time", numbers=("events", "share"))
    whole = max(activity.total.total, 1)
    most = max((series.total for series in activity.series), default=1) or 1
    names = [plain(series.name, _NAME) or "(not named)" for series in activity.series]
    # Beside the name there are 40 characters of numbers, bars and gaps.
    room = console().width - max(map(len, names), default=0) - 40
    width = min(max(room, 12), _SPARK)
    for name, series in zip(names, activity.series, strict=True):
        result.add_row(
            cell(name),
            f"{series.total:,}",
            f"{series.total / whole:.0%}",
            styled(bar(series.total / most, _BAR), "cyan"),
            styled(sparkline(fitted(series.counts, width)), "green"),
        )
    return result


def _hours_lines(hours: tuple[int, ...], zone: str) -> list[str]:
    """The hours of the day as columns, each three characters wide."""
    busiest = max(range(len(hours)), key=lambda hour: hours[hour])
    return [
        f"by hour of the day ({zone}); busiest at {busiest:02}:00, {hours[busiest]:,} events",
        *("".join(f" {column}{column}" for column in line) for line in columns(hours, 3)),
        "".join(f" {hour:02}" for hour in range(len(hours))),
    ]


def _draw(
    activity: Activity,
    project: str,
    by: Dimension,
    offset: int,
    png: str | None,
    html: str | None,
) -> None:
    from contex_server.cli.charts import Chart, draw_png
    from contex_server.cli.pages import page

    chart = Chart(
        project=project,
        heading="" if by is Dimension.TOTAL else _heading(by),
        activity=activity,
        range_text=range_text(activity, offset),
        bucket_text=length_text(activity.bucket_seconds),
        zone=zone_of(offset),
    )
    if png is not None:
        _write(png, draw_png(chart))
    if html is not None:
        _write(html, page(chart).encode())


def _write(file: str, content: bytes) -> None:
    with written(file) as out:
        out.write(content)
    if file != "-":
        error_console().print(f"written: {file}", markup=False)

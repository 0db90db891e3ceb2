"""`contex activity`: how many events there were, over time."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone, tzinfo
from importlib.util import find_spec

import contex

from contex_cli import output as out
from contex_cli.bars import bar, columns, fitted, sparkline
from contex_cli.command import Session, command
from contex_cli.exits import InputError
from contex_cli.parameters import option
from contex_cli.records import record
from contex_cli.times import Place, parse_moment, parse_place

_HEIGHT = 6
_WIDTH = 72
_BAR = 16
_SPARK = 60
_NAME = 48
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_LENGTH = re.compile(r"(\d{1,7})(s|m|min|h|d|w)?")


_DIMENSIONS = {
    "total": contex.ActivityDimension.TOTAL,
    "key": contex.ActivityDimension.DATA_KEY,
    "type": contex.ActivityDimension.EVENT_TYPE,
    "publisher": contex.ActivityDimension.PUBLISHER,
    "need": contex.ActivityDimension.NEED,
}


def parse_length(text: str) -> int:
    """Seconds of a length such as "90s", "5m", "1h" or "1d"."""
    found = _LENGTH.fullmatch(text.strip().lower())
    if found is None or not int(found[1]):
        raise ValueError(f"{text!r} is not a length such as 5m, 1h or 1d")
    return int(found[1]) * _UNITS[found[2] or "s"]


@command()
async def activity(
    session: Session,
    by: str = option("total", "Count all together, or by this.", parse={k: k for k in _DIMENSIONS}),
    names: tuple[str, ...] = option(
        (), "Only these keys, types and so on. Repeatable.", "--name", metavar="GLOB"
    ),
    since: Place | None = option(
        None,
        "From this time on: 'yesterday', '2h ago'. [default: 24 hours before the end]",
        metavar="POSITION",
        parse=parse_place,
    ),
    until: Place | None = option(
        None, "Up to this time. [default: now]", metavar="POSITION", parse=parse_moment
    ),
    bucket: int = option(
        0,
        "Length of a bucket, 1m at least: 5m, 1h, 1d. [default: a 60th or so of the range]",
        metavar="LENGTH",
        parse=parse_length,
    ),
    top: int = option(
        10, "At most this many names, the busiest.", metavar="N", minimum=1, maximum=100
    ),
    png: str | None = option(None, "Also draw a chart as a picture.", metavar="FILE"),
    html: str | None = option(
        None, "Also write a page with a chart and its numbers.", metavar="FILE"
    ),
) -> None:
    """Show how many events there were, over time.

    With bars and sparklines; --png and --html need the extra "charts" of this package.
    """
    draws = png is not None or html is not None
    if draws and find_spec("matplotlib") is None:
        raise InputError(
            "charts need matplotlib; install it with: pip install 'contex-cli[charts]'"
        )

    offset = _utc_offset_minutes(until)
    zone = timezone(timedelta(minutes=offset))
    found = await session.client.activity(
        session.project,
        _DIMENSIONS[by],
        since=since,
        until=until,
        bucket_seconds=bucket,
        names=names,
        top=top,
        utc_offset_minutes=offset,
    )
    if session.json:
        out.print_json({"dimension": by, **record(found), "utc_offset_minutes": offset})
    else:
        show(found, session.project, by, zone)
    if draws:
        from contex_cli.charts import Chart, draw_png, page

        chart = Chart(
            project=session.project,
            heading="" if by == "total" else _heading(by),
            activity=found,
            range_text=range_text(found, zone),
            bucket_text=length_text(found.bucket_seconds),
            zone=zone,
        )
        if png is not None:
            _write(png, draw_png(chart))
        if html is not None:
            _write(html, page(chart).encode())


def length_text(seconds: int) -> str:
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


def _range(activity: contex.Activity, zone: tzinfo) -> tuple[datetime, datetime]:
    return activity.start_time.astimezone(zone), activity.end_time.astimezone(zone)


def range_text(activity: contex.Activity, zone: tzinfo) -> str:
    """Range and zone: where the first bucket begins and the last one ends."""
    start, end = _range(activity, zone)
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} {zone}"


def show(activity: contex.Activity, project: str, by: str, zone: tzinfo) -> None:
    """Prints all together as columns, the names as sparklines, and the hours of the day."""
    total = activity.total
    out.say(
        (out.plain(project), "bold"),
        f"  {total.total:,} events, {range_text(activity, zone)}, "
        f"by the {length_text(activity.bucket_seconds)}",
    )
    out.say()
    if not total.total:
        out.say("no events in this range")
        return
    out.say_lines(_columns_lines(activity, zone))
    out.say()
    if by != "total":
        out.console().print(series_table(activity, _heading(by)))
        left_out = activity.name_count - len(activity.series)
        if left_out > 0:
            out.remark(f"{left_out:,} more are not shown; --top shows up to 100")
    if any(activity.peak_hours):
        out.say_lines(_hours_lines(activity.peak_hours, zone))


def _heading(by: str) -> str:
    return _DIMENSIONS[by].value.replace("_", " ")


def _columns_lines(activity: contex.Activity, zone: tzinfo) -> list[str]:
    counts = fitted(activity.total.counts, _WIDTH)
    most = max(counts, default=0)
    scale = f"{most:,}"
    lines = columns(counts, _HEIGHT)
    margin = [scale, *[""] * (_HEIGHT - 2), "0"]
    drawn = [f"{label:>{len(scale)}} │{line}" for label, line in zip(margin, lines, strict=True)]
    drawn.append(" " * len(scale) + " └" + "─" * len(counts))
    drawn.append(" " * (len(scale) + 2) + _time_axis(activity, zone, len(counts)))
    return drawn


def _time_axis(activity: contex.Activity, zone: tzinfo, width: int) -> str:
    """Where the range begins, its middle and where it ends, below the columns."""
    start, end = _range(activity, zone)
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


def series_table(activity: contex.Activity, heading: str) -> out.Table:
    """A row for each name: how many, their share as a bar, and when as a sparkline."""
    result = out.table(heading, "events", "share", "", "over time")
    whole = max(activity.total.total, 1)
    most = max((series.total for series in activity.series), default=1) or 1
    names = [out.plain(series.name, _NAME) or "(not named)" for series in activity.series]
    # Beside the name there are 40 characters of numbers, bars and gaps.
    room = out.console().width - max(map(len, names), default=0) - 40
    width = min(max(room, 12), _SPARK)
    for name, series in zip(names, activity.series, strict=True):
        result.add_row(
            out.cell(name),
            f"{series.total:,}",
            f"{series.total / whole:.0%}",
            out.styled(bar(series.total / most, _BAR), "cyan"),
            out.styled(sparkline(fitted(series.counts, width)), "green"),
        )
    return result


def _hours_lines(hours: tuple[int, ...], zone: tzinfo) -> list[str]:
    """The hours of the day as columns, each three characters wide."""
    busiest = max(range(len(hours)), key=lambda hour: hours[hour])
    return [
        f"by hour of the day ({zone}); busiest at {busiest:02}:00, {hours[busiest]:,} events",
        *("".join(f" {column}{column}" for column in line) for line in columns(hours, 3)),
        "".join(f" {hour:02}" for hour in range(len(hours))),
    ]


def _write(file: str, content: bytes) -> None:
    with out.open_file(file) as opened:
        opened.write(content)
    if file != "-":
        out.remark(f"written: {file}")

"""`contex activity`: how many events there were, over time."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone, tzinfo
from importlib.util import find_spec

import contex

from contex_cli import output as out
from contex_cli.bars import bar, columns, fitted
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
    match = _LENGTH.fullmatch(text.strip().lower())
    if match is None or not int(match[1]):
        raise ValueError(f"{text!r} is not a length such as 5m, 1h or 1d")
    return int(match[1]) * _UNITS[match[2] or "s"]


@command("activity")
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
    bucket: int | None = option(
        None,
        "Length of a bucket, 1m at least: 5m, 1h, 1d. [default: about a 60th of the range]",
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
    """With bars and sparklines; --png and --html need the extra "charts" of this package."""
    draws = png is not None or html is not None
    if draws and find_spec("matplotlib") is None:
        raise InputError(
            "charts need matplotlib; install it with: pip install 'contex-cli[charts]'"
        )

    # How far local time was ahead of UTC at the end of the range.
    end = until if isinstance(until, datetime) else datetime.now()
    offset = round((end.astimezone().utcoffset() or timedelta()) / timedelta(minutes=1))
    zone = timezone(timedelta(minutes=offset))
    dimension = _DIMENSIONS[by]
    answer = await session.client.activity(
        session.project,
        dimension,
        since=since,
        until=until,
        bucket_seconds=bucket or 0,
        names=names,
        top=top,
        utc_offset_minutes=offset,
    )
    heading = dimension.value.replace("_", " ") if by != "total" else ""
    start, stop = answer.start_time.astimezone(zone), answer.end_time.astimezone(zone)
    local = replace(answer, start_time=start, end_time=stop)
    report = Report(session.project, heading, local, zone)
    if session.json:
        out.print_json({"dimension": by, **record(answer), "utc_offset_minutes": offset})
    else:
        show(report)
    if draws:
        from contex_cli.charts import draw_png, page

        if png is not None:
            _write(png, draw_png(report))
        if html is not None:
            _write(html, page(report).encode())


@dataclass(frozen=True)
class Report:
    """What is shown, as text or as a chart, in the local time of its end.

    Attributes:
        heading: What the names are: "data key"; empty for all together.
    """

    project: str
    heading: str
    activity: contex.Activity
    zone: tzinfo

    @property
    def range_text(self) -> str:
        start, end = self.activity.start_time, self.activity.end_time
        return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} {self.zone}"

    @property
    def bucket_text(self) -> str:
        seconds = self.activity.bucket_seconds
        for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
            if seconds % size == 0:
                count = seconds // size
                return unit if count == 1 else out.counted(count, unit)
        return out.counted(seconds, "second")


def show(report: Report) -> None:
    """Prints all together as columns, the names as sparklines, and the hours of the day."""
    activity, hours = report.activity, report.activity.peak_hours
    steps = report.bucket_text
    steps = f"in steps of {steps}" if steps[0].isdigit() else f"by the {steps}"
    out.say(
        (out.plain(report.project), "bold"),
        f"  {out.counted(activity.total.total, 'event')}, {report.range_text}, {steps}",
    )
    out.say()
    if not activity.total.total:
        out.say("no events in this range")
        return
    counts = fitted(activity.total.counts, _WIDTH)
    scale = f"{max(counts):,}"
    margin = [scale, *[""] * (_HEIGHT - 2), "0"]
    for label, line in zip(margin, columns(counts, _HEIGHT), strict=True):
        out.say(f"{label:>{len(scale)}} │{line}")
    out.say(" " * len(scale) + " └" + "─" * len(counts))
    out.say(" " * (len(scale) + 2) + _time_axis(activity, len(counts)))
    out.say()
    if report.heading:
        _show_series(activity, report.heading)
    if any(hours):
        busiest = max(range(len(hours)), key=lambda hour: hours[hour])
        peak = f"busiest at {busiest:02}:00, {out.counted(hours[busiest], 'event')}"
        out.say(f"by hour of the day ({report.zone}); {peak}")
        for line in columns(hours, 3):
            out.say("".join(f" {column}{column}" for column in line))
        out.say("".join(f" {hour:02}" for hour in range(len(hours))))


def _time_axis(activity: contex.Activity, width: int) -> str:
    """Where the range begins, its middle and where it ends, below the columns."""
    start, span = activity.start_time, activity.end_time - activity.start_time
    if span <= timedelta(days=2):
        form = "%H:%M" if span <= timedelta(days=1) else "%d %b %H:%M"
    else:
        form = "%d %b" if span <= timedelta(days=300) else "%b %Y"
    left, middle, right = (f"{at:{form}}" for at in (start, start + span / 2, start + span))
    if width < len(left + middle + right) + 4:
        return f"{left} … {right}"
    gap = width // 2 - len(left) - len(middle) // 2
    line = left + " " * gap + middle
    return line + right.rjust(width - len(line))


def series_name(series: contex.ActivitySeries, limit: int | None = None) -> str:
    return out.plain(series.name, limit) or "(not named)"


def _show_series(activity: contex.Activity, heading: str) -> None:
    """A row for each name: how many, their share as a bar, and when as a sparkline."""
    whole = activity.total.total
    highest = max((series.total for series in activity.series), default=1) or 1
    longest = max(
        (out.width_of(series_name(series, _NAME)) for series in activity.series), default=0
    )
    # Beside the name there are 40 characters of numbers, bars and gaps.
    width = min(max(out.console().width - longest - 40, 12), _SPARK)
    out.show_table(
        activity.series,
        {
            heading: lambda series: series_name(series, _NAME),
            "events": lambda series: f"{series.total:,}",
            "share": lambda series: f"{series.total / whole:.0%}",
            "": lambda series: out.styled(bar(series.total / highest, _BAR), "cyan"),
            "over time": lambda s: out.styled(columns(fitted(s.counts, width))[0], "green"),
        },
    )
    if (left_out := activity.name_count - len(activity.series)) > 0:
        out.remark(
            f"{left_out:,} more {'is' if left_out == 1 else 'are'} not shown; --top shows up to 100"
        )


def _write(file: str, content: bytes) -> None:
    with out.open_file(file) as opened:
        opened.write(content)
    if file != "-":
        out.remark(f"written: {file}")

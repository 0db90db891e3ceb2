"""Charts of activity, drawn by matplotlib: the extra "charts"; as a picture or in a page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from html import escape

import matplotlib
from matplotlib import rc
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.ticker import FuncFormatter, MaxNLocator

from contex_cli import output as out
from contex_cli.activity import Report, series_name

_INCHES = (12.0, 7.2)
_DPI = 150
_ROW_INCHES, _BASE_ROWS = 0.21, 10
"""Height of a name's row, and how many rows the chart's height has room for."""
_LABEL = 42
# Told apart by people who don't see all colours, and on white as on black.
_COLOURS = (
    *("#2f7ed8", "#e0812b", "#2ca58d", "#c2549d", "#8f7ae5", "#b8a02e", "#4fb0d6", "#d1495b"),
    "#7a9e48",
)
_OTHERS = "#9aa0a6"
_ACCENT = "#e0812b"
# For ticks at years, months, days, hours, minutes and seconds; the second for the first of each.
_TICKS = ["%Y", "%b", "%d %b", "%H:%M", "%H:%M", "%H:%M:%S"]
_FIRST_TICKS = ["%Y", "%b %Y", "%d %b", "%d %b", "%H:%M", "%H:%M"]
# For names that the first font can't write, where they are installed.
_FONTS = ("Noto Sans", "Noto Sans CJK JP", "Hiragino Sans", "Arial Unicode MS")
# Stand-ins in the SVG for what depends on the page's colours; nothing else has these.
_INK, _FAINT = "#010203", "#040506"
_LIGHT = ("#1f2328", "#6b7280")


def _title(report: Report) -> str:
    by = f" by {report.heading}" if report.heading else ""
    return f"{out.plain(report.project)}: events{by}"


def _subtitle(report: Report) -> str:
    return f"{out.counted(report.activity.total.total, 'event')}, {report.range_text}"


def _layers(report: Report) -> list[tuple[str, int, tuple[int, ...], str]]:
    """Name, total, counts and colour of each layer, the busiest first; the rest is one."""
    total = report.activity.total
    if not report.heading:
        return [("all events", total.total, total.counts, _COLOURS[0])]
    shown = report.activity.series
    layers = [(series_name(s, _LABEL), s.total, s.counts, _colour(n)) for n, s in enumerate(shown)]
    rest = tuple(
        max(whole - sum(s.counts[i] for s in shown), 0) for i, whole in enumerate(total.counts)
    )
    if any(rest):
        layers.append(("others", sum(rest), rest, _OTHERS))
    return layers


def draw_png(report: Report) -> bytes:
    """The chart as a picture on a light ground, which reads the same on any page."""
    drawn = io.BytesIO()
    with _style(*_LIGHT):
        _figure(report, _LIGHT[1]).savefig(
            drawn, format="png", dpi=_DPI, facecolor="#ffffff", metadata={"Title": _title(report)}
        )
    return drawn.getvalue()


def draw_svg(report: Report) -> str:
    """The chart as an `<svg>` element without a ground, in the colours of the page around it.

    It refers to nothing outside of itself. Its ink is `var(--ink)`, and `var(--faint)`.
    """
    drawn = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with _style(_INK, _FAINT):
        _figure(report, _FAINT).savefig(drawn, format="svg", transparent=True, metadata=nothing)
    svg = drawn.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return svg.replace(_INK, "var(--ink)").replace(_FAINT, "var(--faint)")


def _colour(number: int) -> str:
    """A colour of its own for each of a hundred layers: the nine, then lighter and darker."""
    turn, place = divmod(number, len(_COLOURS))
    towards = (1.0, 0.0)[turn % 2]
    share = min(0.16 * ((turn + 1) // 2), 0.85)
    red, green, blue = (part * (1 - share) + towards * share for part in to_rgb(_COLOURS[place]))
    return to_hex((red, green, blue)) if turn else _COLOURS[place]


@contextmanager
def _style(ink: str, faint: str) -> Iterator[None]:
    """Settings for these charts only: names of data are no formulas, fonts stay text."""
    fonts = set(get_font_names()).intersection(_FONTS)
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name may have characters that the font lacks
        rc("font", family=["DejaVu Sans", *sorted(fonts, key=_FONTS.index)], size=10)
        rc("text", color=ink, parse_math=False)
        rc("svg", fonttype="none", hashsalt="contex")
        rc("axes", axisbelow=True, edgecolor=faint, grid=True, titlelocation="left", titlesize=11)
        rc("axes.grid", axis="y")
        rc("axes.spines", left=False, right=False, top=False)
        rc("grid", alpha=0.25, color=faint, linewidth=0.7)
        rc("xtick", color=faint)
        rc("ytick", color=faint)
        yield


def _figure(report: Report, faint: str) -> Figure:
    # The names get as much height as they need; everything else keeps its size.
    width, base = _INCHES
    more = _ROW_INCHES * max(len(_layers(report)) - _BASE_ROWS, 0)
    height = base + more
    figure = Figure(figsize=(width, height))
    edges = {"left": 0.07, "right": 0.97, "top": 1 - 1.08 / height, "bottom": 0.58 / height}
    upper, lower, gap = 2.79, 1.86 + more, 0.88
    grid = figure.add_gridspec(
        2, 2, height_ratios=(upper, lower), hspace=2 * gap / (upper + lower), wspace=0.1, **edges
    )
    figure.text(0.07, 1 - 0.4 / height, _title(report), size=16, weight="bold")
    figure.text(0.07, 1 - 0.63 / height, _subtitle(report), size=10.5, color=faint)
    _draw_over_time(figure.add_subplot(grid[0, :]), report)
    if report.heading:
        _draw_names(figure.add_subplot(grid[1, 0]), report, faint)
    _draw_hours(figure.add_subplot(grid[1, 1 if report.heading else slice(None)]), report)
    return figure


def _draw_over_time(axes: Axes, report: Report) -> None:
    activity = report.activity
    each = activity.bucket_seconds / 86_400
    start = float(date2num(activity.start_time))
    edges = [start + i * each for i in range(len(activity.total.counts))]
    drawn = each * (0.86 if len(edges) <= 200 else 1.0)
    below = [0] * len(edges)
    for _, _, counts, colour in _layers(report):
        axes.bar(edges, counts, width=drawn, bottom=below, align="edge", color=colour, linewidth=0)
        below = [low + count for low, count in zip(below, counts, strict=True)]
    locator = AutoDateLocator(tz=report.zone, minticks=4, maxticks=12)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(
        ConciseDateFormatter(
            locator, tz=report.zone, formats=_TICKS, zero_formats=_FIRST_TICKS, show_offset=False
        )
    )
    if edges:
        axes.set_xlim(edges[0], edges[-1] + each)
    axes.set_title(f"In each {report.bucket_text}, {report.zone}")
    _count_axis(axes)


def _draw_names(axes: Axes, report: Report, faint: str) -> None:
    """The names with their totals, in the colours of the layers above: the legend, too."""
    layers = _layers(report)
    highest = max((layer[1] for layer in layers), default=1) or 1
    for row, (name, total, _, colour) in enumerate(layers):
        axes.barh(row, total / highest, color=colour, height=0.42, align="edge", linewidth=0)
        axes.text(0, row - 0.06, name, va="bottom", ha="left", size=8.5)
        axes.text(1, row - 0.06, f"{total:,}", va="bottom", ha="right", size=8.5, color=faint)
    axes.set(xlim=(0, 1.0), ylim=(max(len(layers), 4) - 0.45, -0.5))
    axes.set_axis_off()
    axes.set_title(f"Busiest by {report.heading}")


def _draw_hours(axes: Axes, report: Report) -> None:
    """Events by the hour of the day; the busiest hour stands out."""
    hours = list(report.activity.peak_hours) or [0] * 24
    busiest = max(hours)
    colours = [_ACCENT if count == busiest and count else _OTHERS for count in hours]
    axes.bar(range(len(hours)), hours, width=0.8, color=colours, linewidth=0)
    axes.set_xticks(range(0, 24, 3), [f"{hour:02}:00" for hour in range(0, 24, 3)])
    axes.set_xlim(-0.6, len(hours) - 0.4)
    peak = f", busiest at {hours.index(busiest):02}:00" if busiest else ""
    axes.set_title(f"By hour of the day, {report.zone}{peak}")
    _count_axis(axes)


def _count_axis(axes: Axes) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylim(bottom=0)
    axes.tick_params(length=0, labelsize=9)
    axes.patch.set_alpha(0)


_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --faint: #6b7280; --ground: #ffffff;
  --line: #d8dde3; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --faint: #9aa3ad; --ground: #14171a; --line: #343a41; }
}
body { margin: 2rem auto; max-width: 75rem; padding: 0 1rem; background: var(--ground);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
svg { width: 100%; height: auto; }
svg text { font-family: system-ui, sans-serif !important; }
h1 { position: absolute; left: -100vw; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.wide { overflow: auto; max-height: 36rem; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
thead th { position: sticky; top: 0; background: var(--ground); }
td.none { color: var(--faint); }
footer { margin-top: 2rem; color: var(--faint); }
"""


def page(report: Report) -> str:
    """The page, whose colours follow the reader's light or dark setting."""
    activity = report.activity
    named = [activity.total, *(activity.series if report.heading else ())]
    heads = ["all", *map(series_name, named[1:])]
    step = timedelta(seconds=activity.bucket_seconds)
    rows = (
        (
            f"{activity.start_time + i * step:%Y-%m-%d %H:%M}",
            [series.counts[i] for series in named],
        )
        for i in range(len(activity.total.counts))
    )
    hours = ((f"{hour:02}:00", [count]) for hour, count in enumerate(activity.peak_hours))
    tables = [
        *_table(f"Events in each {report.bucket_text}", f"from ({report.zone})", heads, rows),
        *_table("Events by hour of the day", f"hour ({report.zone})", ["events"], hours),
    ]
    return f"""\
<!doctype html>
<html lang="en">
<head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(_title(report))}, {escape(report.range_text)}</title>
<style>{_STYLE}</style></head>
<body>
<h1>{escape(_title(report))}</h1>
{draw_svg(report)}
{"".join(tables)}<footer>{escape(_subtitle(report))}</footer>
</body></html>
"""


def _table(
    title: str, first: str, heads: list[str], rows: Iterable[tuple[str, list[int]]]
) -> Iterator[str]:
    yield f'<h2>{escape(title)}</h2>\n<div class="wide"><table>\n<thead><tr>'
    yield "".join(f"<th>{escape(head)}</th>" for head in (first, *heads))
    yield "\n</tr></thead><tbody>\n"
    for label, counts in rows:
        cells = (f"<td>{n:,}</td>" if n else '<td class="none">0</td>' for n in counts)
        yield f"<tr><td>{escape(label)}</td>{''.join(cells)}</tr>\n"
    yield "</tbody></table></div>\n"

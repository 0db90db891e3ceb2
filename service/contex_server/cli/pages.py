"""A page with a chart of activity and its numbers: one file that needs no other."""

from __future__ import annotations

from datetime import timedelta
from html import escape
from typing import TYPE_CHECKING

from contex_server.cli.charts import draw_svg
from contex_server.cli.output import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from contex_server.cli.charts import Chart

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


def page(chart: Chart) -> str:
    """The page, whose colours follow the reader's light or dark setting."""
    activity = chart.activity
    named = [activity.total, *(activity.series if chart.heading else ())]
    heads = ["all", *(plain(series.name) or "(not named)" for series in named[1:])]
    step = timedelta(seconds=activity.bucket_seconds)
    rows = (
        (
            f"{(activity.start_time + i * step).astimezone(chart.zone):%Y-%m-%d %H:%M}",
            [series.counts[i] for series in named],
        )
        for i in range(len(activity.total.counts))
    )
    hours = ((f"{hour:02}:00", [count]) for hour, count in enumerate(activity.peak_hours))
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(chart.title)}, {escape(chart.range_text)}</title>",
            f"<style>{_STYLE}</style></head>",
            "<body>",
            f"<h1>{escape(chart.title)}</h1>",
            draw_svg(chart),
            *_table(f"Events in each {chart.bucket_text}", f"from ({chart.zone})", heads, rows),
            *_table("Events by hour of the day", f"hour ({chart.zone})", ["events"], hours),
            f"<footer>{escape(chart.subtitle)}</footer>",
            "</body></html>",
            "",
        ]
    )


def _table(
    title: str, first: str, heads: list[str], rows: Iterable[tuple[str, list[int]]]
) -> list[str]:
    return [
        f"<h2>{escape(title)}</h2>",
        '<div class="wide"><table>',
        "<thead><tr>" + "".join(f"<th>{escape(head)}</th>" for head in (first, *heads)),
        "</tr></thead><tbody>",
        *(
            f"<tr><td>{escape(label)}</td>" + "".join(map(_number, counts)) + "</tr>"
            for label, counts in rows
        ),
        "</tbody></table></div>",
    ]


def _number(count: int) -> str:
    return f"<td>{count:,}</td>" if count else '<td class="none">0</td>'

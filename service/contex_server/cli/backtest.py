"""`contex backtest`: what needs would have received."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from contex_server.cli import options
from contex_server.cli.bars import bar
from contex_server.cli.needs import Exclude, NeedsFile, needs_or_exit
from contex_server.cli.output import cell, console, flush, matched_line, print_json, print_line
from contex_server.cli.positions import Place, parse_position
from contex_server.cli.progress import Progress
from contex_server.cli.records import matched_record, summary_record
from contex_server.cli.running import run

if TYPE_CHECKING:
    from contex import AsyncClient, BacktestSummary, MinDelta, Need, NeedSummary

_BAR = 40


def backtest(
    needs: Annotated[
        list[str] | None,
        typer.Argument(metavar="NEED", help="What an agent might need, in plain words."),
    ] = None,
    needs_file: NeedsFile = None,
    exclude: Exclude = None,
    since: options.Since = None,
    until: options.Until = None,
    threshold: options.Threshold = None,
    only_changes: options.OnlyChanges = None,
    pointers: options.OnlyChangesAt = None,
    summary_only: Annotated[
        bool, typer.Option("--summary", help="Only the summary, not each event.")
    ] = False,
    project: options.Project = "default",
    target: options.Target = options.DEFAULT_TARGET,
    timeout: options.Timeout = 10.0,
    as_json: options.Json = False,
) -> None:
    """Show what needs would have received, had they been registered.

    Each event is judged as a live delivery is. The summary counts the events at other thresholds.
    """
    wanted = needs_or_exit(needs, needs_file, exclude)
    if not wanted:
        raise typer.BadParameter("missing; or use --needs-file", param_hint="NEED")
    start, end = parse_position(since, "--since"), parse_position(until, "--until")
    min_delta = options.min_delta(only_changes, pointers)

    async def work() -> None:
        async with options.connect(target, timeout) as client:
            default = threshold
            if default is None:
                default = (await client.matching_status(project)).default_threshold
            summary = await _stream(
                client, project, wanted, threshold, start, end, min_delta, summary_only, as_json
            )
        if summary is not None:
            _show(summary, [_text_and_threshold(need, default) for need in wanted], as_json)

    run(work())


async def _stream(
    client: AsyncClient,
    project: str,
    needs: list[str | Need],
    threshold: float | None,
    since: Place | None,
    until: Place | None,
    min_delta: MinDelta | None,
    summary_only: bool,
    as_json: bool,
) -> BacktestSummary | None:
    from contex import BacktestProgress, BacktestSummary

    summary = None
    shown = summary_only or as_json or not console().is_terminal
    with Progress("read", shown=shown, bar=True) as progress:
        async with client.backtest(
            project,
            needs,
            threshold=threshold,
            since=since,
            until=until,
            min_delta=min_delta,
            summary_only=summary_only,
        ) as items:
            async for item in items:
                if isinstance(item, BacktestProgress):
                    progress.reach(item.events_read, item.events_total)
                    flush()
                elif isinstance(item, BacktestSummary):
                    summary = item
                elif as_json:
                    print_json(matched_record(item))
                else:
                    print_line(matched_line(item))
    return summary


def _text_and_threshold(need: str | Need, default: float) -> tuple[str, float]:
    if isinstance(need, str):
        return need, default
    return need.text, default if need.threshold is None else need.threshold


def _show(summary: BacktestSummary, needs: list[tuple[str, float]], as_json: bool) -> None:
    from contex import THRESHOLDS

    if as_json:
        print_json(summary_record(summary, needs, THRESHOLDS))
        return
    held_back = summary.updates_held_back
    console().print()
    console().print(
        f"{summary.events_matched:,} of {summary.events_judged:,} events would have been "
        f"delivered, about {summary.data_keys_matched:,} data"
        + (f"; --min-delta held back {held_back:,} updates" if held_back else "")
    )
    for (text, threshold), found in zip(needs, summary.needs, strict=False):
        console().print()
        console().print(cell(text), style="bold")
        for line in histogram(found, threshold, THRESHOLDS):
            console().print(line, markup=False)


def histogram(found: NeedSummary, threshold: float, thresholds: tuple[float, ...]) -> list[str]:
    """Events at each threshold as bars; the chosen one is marked, or put between."""
    counts = dict(zip(thresholds, found.events_at_threshold, strict=False))
    chosen = next((at for at in counts if abs(at - threshold) < 0.005), threshold)
    counts.setdefault(chosen, found.events_matched)
    most = max(counts.values())
    return [
        f"{'▸' if at == chosen else ' '} {at:.2f}  "
        f"{bar(counts[at] / most if most else 0.0, _BAR)}  {counts[at]:,}"
        for at in sorted(counts)
    ]

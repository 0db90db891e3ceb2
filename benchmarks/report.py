"""The table for people and the file for machines."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.figures import Figure, number, spread


def table(results: Mapping[str, Sequence[Figure]]) -> Table:
    """All figures: min / median / max of ours and of the ceiling, ratio, target, verdict."""
    view = Table(title="min / median / max over the runs", title_justify="left")
    view.add_column("benchmark")
    view.add_column("figure", overflow="fold")
    view.add_column("unit")
    view.add_column("ours", justify="right")
    view.add_column("ceiling", justify="right")
    view.add_column("ratio", justify="right")
    view.add_column("target", justify="right")
    view.add_column("")
    for name, figures in results.items():
        for index, figure in enumerate(figures):
            view.add_row(
                "" if index else name,
                figure.name + (f"\n  vs {figure.ceiling_name}" if figure.ceiling_name else ""),
                figure.unit,
                spread(figure.ours),
                spread(figure.ceiling),
                "" if figure.ratio is None else number(figure.ratio),
                "" if figure.target is None else str(figure.target),
                _verdict(figure),
                end_section=index == len(figures) - 1,
            )
    return view


def _verdict(figure: Figure) -> Text:
    if figure.met is None:
        return Text("")
    return Text("pass", style="green") if figure.met else Text("MISS", style="bold red")


def write(
    directory: Path, facts: Mapping[str, Any], results: Mapping[str, Sequence[Figure]]
) -> Path:
    """Writes everything that was measured; returns the file."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    content = {
        "facts": dict(facts),
        "benchmarks": {
            name: [figure.as_json() for figure in figures] for name, figures in results.items()
        },
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def console() -> Console:
    """As wide as the table needs where the output is no terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=160)

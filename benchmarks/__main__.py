"""`python -m benchmarks`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from benchmarks import report
from benchmarks.bench import Bench
from benchmarks.cases import CASES
from benchmarks.facts import facts, summary
from benchmarks.figures import Figure

_RESULTS = Path(__file__).parent / "results"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(CASES), metavar="NAME", default=[])
    parser.add_argument("--runs", type=int, default=3, help="measurements of each figure")
    parser.add_argument("--quick", action="store_true", help="small sizes: does everything work?")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="where the JSON file goes")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path("/var/tmp"),
        help="where the servers keep their data; a real disk, or fsync means nothing",
    )
    parser.add_argument(
        "--profile", type=Path, metavar="DIR", help="run the servers under cProfile (slower)"
    )
    parser.add_argument("--strict", action="store_true", help="exit 1 if a target is missed")
    return parser.parse_args()


async def _measure(bench: Bench, names: list[str]) -> dict[str, list[Figure]]:
    results: dict[str, list[Figure]] = {}
    for name in names:
        bench.console.print(f"[bold]{name}[/bold]")
        results[name] = await CASES[name](bench)
    return results


def main() -> int:
    """Runs the benchmarks; returns the exit code."""
    arguments = _arguments()
    console = report.console()
    if arguments.profile:
        arguments.profile.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments.runs, arguments.quick, arguments.data_dir, console, arguments.profile)
    found = facts(bench.data_dir)
    console.print(summary(found), highlight=False)
    results = asyncio.run(_measure(bench, arguments.only or list(CASES)))
    console.print(report.table(results))
    console.print(f"written: {report.write(arguments.out, found, results)}", highlight=False)
    missed = any(figure.met is False for figures in results.values() for figure in figures)
    return 1 if arguments.strict and missed else 0


if __name__ == "__main__":
    sys.exit(main())

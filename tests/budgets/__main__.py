"""Prints what requests cost beside what they may: `make budgets`."""

from __future__ import annotations

import argparse
import asyncio

from tests.budgets.measure import HEAD, KEYS, PEAK_MIB, Result, measured, printed
from tests.budgets.table import ROWS


def main() -> None:
    """Measures the rows whose names contain some words."""
    parser = argparse.ArgumentParser(prog="python -m tests.budgets", description=__doc__)
    parser.add_argument("words", nargs="*", help="a part of a row's name; none: all rows")
    parser.add_argument("--keys", type=int, default=KEYS, help="how many keys the project has")
    parser.add_argument("--where", action="store_true", help="where the longest step was; slower")
    given = parser.parse_args()
    rows = [row for row in ROWS if not given.words or any(w in str(row) for w in given.words)]

    def tell(result: Result) -> None:
        print(printed(result, where=given.where), flush=True)

    def tell_peak(mib: float) -> None:
        over = "   ! exceeded" if mib > PEAK_MIB else ""
        print(f"highest memory, of server and callers: {mib:.0f} / {PEAK_MIB} MiB{over}")

    print(HEAD)
    times = max(1, -(-given.keys // KEYS))
    asyncio.run(
        measured(rows, given.keys, sampled=given.where, times=times, told=tell, peak=tell_peak)
    )


main()

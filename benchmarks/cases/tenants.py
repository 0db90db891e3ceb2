"""A tenant that publishes 50 events/s to a listening agent: alone, and beside another tenant that
does the heaviest that the API allows, over and over, one kind at a time and all at once.
"""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.cases.archive import events_of
from benchmarks.figures import Figure, Target
from benchmarks.heavy import heavy_work
from benchmarks.load import channels, publish_stream
from benchmarks.paced import Times, measure, text

_INTERVAL_S = 0.02
TIMES = 1.5
"""How many times slower the 99th percentile may be beside another tenant."""
_PROJECT = "heavy-0"
_KEYS = 20_000
_KINDS = ("backtest", "match", "export-json", "history", "state", "publish")


async def run(bench: Bench) -> list[Figure]:
    """Percentiles of each run, alone and beside, measured alternately."""
    seconds, events = bench.size(10, 3), bench.size(200_000, 4_000)
    jobs = {kind: [f"{kind}:{_PROJECT}"] for kind in _KINDS}
    jobs["everything"] = [f"{kind}:{_PROJECT}" for kind in _KINDS]
    alone: dict[str, list[Times]] = {name: [] for name in jobs}
    beside: dict[str, list[Times]] = {name: [] for name in jobs}
    async with bench.server("tenants") as server, channels(server.target) as (channel,):
        await publish_stream(channel, events_of(_PROJECT, 0, events, _KEYS), 4)
        for _ in range(bench.runs):
            for name, work in jobs.items():
                alone[name].append(await measure(channel, seconds, _INTERVAL_S))
                async with heavy_work(server.target, work):
                    beside[name].append(await measure(channel, seconds, _INTERVAL_S))
                bench.say(f"{name}: alone {text(alone[name][-1])}; beside {text(beside[name][-1])}")
    return [
        Figure(
            f"{what}, 50 events/s beside {name} of another tenant, p{percent}",
            "ms",
            [times.of(what, percent) for times in beside[name]],
            [times.of(what, percent) for times in alone[name]],
            "alone",
            Target("times", TIMES) if percent == 99 else None,
        )
        for name in jobs
        for what in ("publish", "deliver")
        for percent in (50, 99)
    ]

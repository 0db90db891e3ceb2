"""A publisher and an agent, alone and beside heavy work in other projects of the same server:
four backtests, three exports and an import, each begun again when it ends.

Open loop: events are published at a pace, whatever became of those before.
"""

from __future__ import annotations

import grpc

from benchmarks.bench import Bench
from benchmarks.cases.archive import events_of
from benchmarks.figures import Figure, Target
from benchmarks.heavy import exported, heavy_work, import_file
from benchmarks.load import channels, publish_stream
from benchmarks.paced import Times, measure, text

INTERVAL_S = 0.05
TIMES = 3.0
"""How many times slower an agent and a publisher may be beside heavy work."""
_KEYS = 300
_PROJECTS = tuple(f"heavy-{number}" for number in range(4))
_JOBS = [
    *(f"backtest:{project}" for project in _PROJECTS),
    f"export-native:{_PROJECTS[0]}",
    f"export-json:{_PROJECTS[1]}",
    f"export-cloud:{_PROJECTS[2]}",
    f"import:{_PROJECTS[3]}",
]


async def run(bench: Bench) -> list[Figure]:
    """Percentiles of each run, alone and beside, measured alternately."""
    seconds, events = bench.size(20, 3), bench.size(20_000, 2_000)
    alone, beside, rates = list[Times](), list[Times](), list[dict[str, float]]()
    async with bench.server("beside") as server, channels(server.target) as (channel,):
        await _fill(channel, events)
        for _ in range(bench.runs):
            alone.append(await measure(channel, seconds, INTERVAL_S))
            async with heavy_work(server.target, _JOBS) as rate:
                beside.append(await measure(channel, seconds, INTERVAL_S))
            rates.append({job: each * events for job, each in rate.items()})
            bench.say(f"alone {text(alone[-1])}; beside {text(beside[-1])}")
            bench.say(", ".join(f"{job} {each:,.0f}/s" for job, each in rates[-1].items()))
    return [
        *(
            Figure(
                f"{name}, 20 events/s beside heavy work, p{percent}",
                "ms",
                [times.of(what, percent) for times in beside],
                [times.of(what, percent) for times in alone],
                "alone",
                Target("times", TIMES) if percent == 99 else None,
                {
                    "max_ms": [times.of(what, 100) for times in beside],
                    "alone_max_ms": [times.of(what, 100) for times in alone],
                },
            )
            for what, name in (
                ("publish", "Publish"),
                ("deliver", "publish → delivery"),
            )
            for percent in (50, 99)
        ),
        *(
            Figure(
                f"meanwhile: {job.partition(':')[0]}",
                "events/s",
                [sum(rate[j] for j in _JOBS if j.startswith(job)) for rate in rates],
            )
            for job in dict.fromkeys(job.partition(":")[0] for job in _JOBS)
        ),
    ]


async def _fill(channel: grpc.aio.Channel, events: int) -> None:
    """Publishes to one project and imports that into the others."""
    await publish_stream(channel, events_of(_PROJECTS[0], 0, events, _KEYS), 4)
    file = b"".join([piece.data async for piece in exported(channel, _PROJECTS[0])])
    for project in _PROJECTS[1:]:
        await import_file(channel, project, file)

"""One chain around every call: what each link does, and that no refusal escapes the first ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from contex_server.edge.chain import Calls, chained, links
from contex_server.edge.incoming import Incoming, Rest
from contex_server.edge.intake import Intake
from contex_server.edge.metrics import CallCounts, CallMetrics, Totals
from contex_server.kernel.drain import Drain
from contex_server.kernel.errors import ContexError, Reason, event_not_found, store_unavailable
from contex_server.kernel.model import Origin
from structlog.testing import capture_logs

SERVICE, METHOD = "contex.v1.EventService", "GetEvent"
NO_ACCESS: Any = SimpleNamespace(required=False)


class Edge:
    """The real links, with an audit that remembers."""

    def __init__(self) -> None:
        self.drain = Drain()
        self.calls = Calls(self.drain)
        self.counts = CallCounts()
        self.audited: list[tuple[str, Origin, str, str]] = []
        self.intake = Intake(max_bytes=400_000)

    def refused(self, project: str, origin: Origin, method: str, reason: str) -> None:
        self.audited.append((project, origin, method, str(reason)))

    async def call(self, servicer: Rest, project: str = "shop", **fields: Any) -> Any:
        def read(call: Incoming) -> str:
            call.project = project
            return "request"

        call = Incoming(SERVICE, METHOD, **{"read": read, "peer": "ipv4:1.2.3.4:5", **fields})
        chain = links(self.calls, self.counts, self, self.intake, NO_ACCESS)  # type: ignore[arg-type]
        return await chained(chain, servicer)(call)

    @property
    def counted(self) -> dict[tuple[str, str], int]:
        return {(code, why): n for (_, _, code, why), n in self.counts.totals().calls.items()}


def fails(error: BaseException) -> Callable[[Incoming], Awaitable[Any]]:
    async def servicer(_call: Incoming) -> Any:
        raise error

    return servicer


async def answers(call: Incoming) -> Any:
    return call


def malformed(_call: Incoming) -> Any:
    raise ContexError(Reason.MALFORMED_REQUEST, "not a message")


async def test_a_servicer_gets_the_request_and_who_calls() -> None:
    edge = Edge()
    headers = {"contex-identity": "ops", "user-agent": "tests\n1"}
    call = await edge.call(answers, headers=headers)
    assert call.request == "request"
    assert call.origin == Origin("ops", "ipv4:1.2.3.4:5", "tests 1")
    assert call.scope.is_open
    assert edge.counted == {("OK", ""): 1}
    assert edge.audited == []
    assert edge.calls.active == 0


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("Zo%C3%AB%20%26%20M%c3%bcller", "Zo\u00eb & M\u00fcller"),
        ("a+b@c", "a+b@c"),
        ("100%25", "100%"),
        ("a b", "a b"),
    ],
)
async def test_a_name_in_a_header_is_escaped_as_in_urls(header: str, name: str) -> None:
    call = await Edge().call(answers, headers={"contex-identity": header})
    assert call.origin.identity == name


@pytest.mark.parametrize("header", ["%FF", "%E6%9D", "a%0Ab", "%20a", "x" * 129])
async def test_a_header_that_is_no_name(header: str) -> None:
    with pytest.raises(ContexError, match="contex-identity: must be"):
        await Edge().call(answers, headers={"contex-identity": header})


@pytest.mark.parametrize(
    ("fields", "code", "reason", "project"),
    [
        ({"read": malformed}, "INVALID_ARGUMENT", "MALFORMED_REQUEST", None),
        (
            {"headers": {"contex-identity": "two%0Alines"}},
            "INVALID_ARGUMENT",
            "INVALID_FIELD",
            None,  # It is not read.
        ),
        ({"drain": True}, "UNAVAILABLE", "SHUTTING_DOWN", "shop"),
        (
            {"servicer": fails(event_not_found("shop", "1-0"))},
            "NOT_FOUND",
            "EVENT_NOT_FOUND",
            "shop",
        ),
        ({"project": "not a name"}, "NOT_FOUND", "EVENT_NOT_FOUND", None),
        ({"project": ""}, "NOT_FOUND", "EVENT_NOT_FOUND", None),
        ({"servicer": fails(store_unavailable("away"))}, "UNAVAILABLE", "STORE_UNAVAILABLE", None),
    ],
    ids=["malformed", "identity", "draining", "refused", "bad project", "no project", "failed"],
)
async def test_every_refusal_is_counted_and_audited_if_it_names_a_project(
    fields: dict[str, Any], code: str, reason: str, project: str | None
) -> None:
    edge = Edge()
    if fields.pop("drain", False):
        edge.drain.start()
    servicer = fields.pop("servicer", fails(event_not_found("shop", "1-0")))
    with pytest.raises(ContexError) as refused:
        await edge.call(servicer, **fields)
    assert refused.value.reason == reason
    assert edge.counted == {(code, reason): 1}
    assert [(p, m, r) for p, _, m, r in edge.audited] == (
        [] if project is None else [(project, METHOD, reason)]
    )
    assert {origin.peer for _, origin, _, _ in edge.audited} <= {"ipv4:1.2.3.4:5"}
    assert edge.calls.active == 0


async def test_a_stream_that_a_shutdown_ends_was_not_refused() -> None:
    edge = Edge()
    shutting_down = ContexError(Reason.SHUTTING_DOWN, "the server is shutting down")
    with pytest.raises(ContexError):
        await edge.call(fails(shutting_down))
    assert edge.counted == {("UNAVAILABLE", "SHUTTING_DOWN"): 1}
    assert edge.audited == []


async def test_a_defect_is_logged_and_not_told() -> None:
    edge = Edge()
    with capture_logs() as logs, pytest.raises(ContexError) as failed:
        await edge.call(fails(ZeroDivisionError("a secret")))
    assert failed.value.reason is Reason.INTERNAL
    assert "secret" not in failed.value.message
    (entry,) = logs
    assert entry["event"] == "internal_error"
    assert entry["method"] == f"{SERVICE}.{METHOD}"
    assert entry["error_id"] in failed.value.message
    assert edge.counted == {("INTERNAL", "INTERNAL"): 1}
    assert edge.audited == []


@pytest.mark.parametrize(
    ("deadline_s", "code"), [(None, "CANCELLED"), (60, "CANCELLED"), (-1, "DEADLINE_EXCEEDED")]
)
async def test_a_cancelled_call_is_counted(deadline_s: float | None, code: str) -> None:
    edge = Edge()
    now = asyncio.get_running_loop().time()
    deadline = None if deadline_s is None else now + deadline_s
    with pytest.raises(asyncio.CancelledError):
        await edge.call(fails(asyncio.CancelledError()), deadline=deadline)
    assert edge.counted == {(code, ""): 1}
    assert edge.audited == []


async def test_a_call_is_known_while_it_runs() -> None:
    edge = Edge()
    going = asyncio.Event()

    async def waits(_call: Incoming) -> None:
        await going.wait()

    task = asyncio.create_task(edge.call(waits))
    await asyncio.sleep(0)
    assert edge.calls.active == 1
    assert not await edge.calls.finished(0.01)
    going.set()
    assert await edge.calls.finished(1)
    await task


def totals(**calls: int) -> Totals:
    found = Totals()
    found.gauges["contex_matchers"] = found.counters["contex_matchers_evicted"] = 1
    for method, count in calls.items():
        found.calls[SERVICE, method, "OK", ""] = count
        found.buckets[SERVICE, method, 0] = count
        found.seconds[SERVICE, method] = count / 4
    return found


def samples(metrics: CallMetrics) -> dict[str, float]:
    return {
        f"{s.name}{{{s.labels.get('method', '')}}}": s.value
        for family in metrics.collect()
        for s in family.samples
        if s.labels.get("le", "+Inf") == "+Inf"
    }


async def test_processes_add_up_and_no_counter_falls_when_one_ends() -> None:
    own = Edge()
    await own.call(answers)
    metrics = CallMetrics()
    metrics.follow(own.counts)
    metrics.reported(0, totals(Publish=2))
    metrics.reported(1, totals(Publish=3, Listen=1))
    metrics.reported(0, totals(Publish=5))
    expected = {"contex_calls_total{GetEvent}": 1, "contex_calls_total{Publish}": 8}
    assert expected.items() <= samples(metrics).items()
    assert samples(metrics)["contex_call_seconds_count{Publish}"] == 8
    assert samples(metrics)["contex_call_seconds_sum{Publish}"] == 2
    metrics.reported(1, None)
    assert samples(metrics)["contex_calls_total{Publish}"] == 8
    metrics.reported(1, totals(Publish=1))
    metrics.reported(1, None)
    metrics.reported(1, None)
    assert samples(metrics)["contex_calls_total{Publish}"] == 9
    assert samples(metrics)["contex_calls_total{Listen}"] == 1
    # Three reports in all, one of a process that is still there.
    assert samples(metrics)["contex_matchers_evicted_total{}"] == 3
    assert samples(metrics)["contex_matchers{}"] == 1

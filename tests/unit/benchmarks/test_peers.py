"""What `make bench-peers` writes, and what it makes of what it measured."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.peers import __main__ as peers
from benchmarks.peers import load, servers
from benchmarks.peers.load import Load, Run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time."""
    now = [0.0]
    monkeypatch.setattr(load.time, "perf_counter", lambda: now[0])

    def set_to(seconds: float) -> None:
        now[0] = seconds

    return set_to


def test_writers_send_events_of_one_size_until_their_time_is_up(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(Load("two writers", writers=2, batch=3, seconds=5))
    sent: list[tuple[str, bytes]] = []
    for writer in range(2):
        clock(0.0)
        for calls, batch in enumerate(run.batches(writer), 1):
            sent += batch
            clock(5.0 if calls == 4 else 4.9)
    assert len({payload for _, payload in sent}) == len(sent) == run.events == 2 * 4 * 3
    assert {len(payload) for _, payload in sent} == {load.PAYLOAD_BYTES}
    assert all(json.loads(payload)["base_url"] for _, payload in sent)
    clock(6.0)
    run.report()
    timed = load.parsed(capsys.readouterr().out)
    assert (timed.events, timed.seconds) == (24, 6.0)


def test_what_is_no_measurement_is_refused() -> None:
    for line in ("", "ready\n", "[1]", '{"events": 1}'):
        with pytest.raises(ValueError, match="no measurement"):
            load.parsed(line)


def test_a_client_is_told_its_load(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in peers.LOADS:
        monkeypatch.setattr(sys, "argv", ["to_contex", "127.0.0.1:1", load.as_argument(each)])
        assert load.told() == ("127.0.0.1:1", each)


def test_the_table_has_ratios_and_targets() -> None:
    first = peers.LOADS[0].name
    rates: peers.Rates = {
        first: {
            "UmaDB 1": [peers.Rate(1_000, 10, 5), peers.Rate(2_000, 12, 7)],
            peers.CONTEX: [peers.Rate(400, 100, 50), peers.Rate(1_200, 100, 50)],
            peers.RAW: [peers.Rate(4_000), peers.Rate(6_000)],
        }
    }
    (figures,) = peers.figures_of(rates).values()
    assert [figure.name for figure in figures] == [
        "Contex against UmaDB 1",
        "Contex against raw store calls",
    ]
    assert figures[0].ratio == pytest.approx(0.5)
    assert [figure.met for figure in figures] == [True, None]
    assert [[*figure.details["us_per_event"]] for figure in figures] == [
        ["Contex", "UmaDB 1"],
        ["Contex"],
    ]
    assert report.table({first: figures}).row_count == 2
    (line,) = peers.processor_lines(rates)
    assert line.endswith("server + client: UmaDB 1 11 + 6, Contex 100 + 50")


def test_without_go_jetstream_is_left_out_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(servers.NotInstalled, match="no go command"):
        asyncio.run(servers.install_nats(tmp_path))


def test_an_installation_that_fails_says_why() -> None:
    command = (sys.executable, "-c", "print('first'); exit('no network')")
    with pytest.raises(servers.NotInstalled, match="failed: no network"):
        asyncio.run(servers._run(command))

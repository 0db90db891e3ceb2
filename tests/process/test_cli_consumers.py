"""`contex consume` and what goes with it, against a real server process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contex_cli.exits import ExitCode

from tests.process.test_cli import EVENT_KEYS, MATCHED_KEYS, Contex, contex, publish, target

__all__ = ["contex", "target"]
SHELL = ("--", "bash", "-c")


@pytest.fixture
def queue(contex: Contex) -> list[str]:
    """The sequences of three facts, which an agent gets."""
    contex.ok("register", "packer", "--filter", "everything")
    return [publish(contex, key, f'"{key}"')["sequence"] for key in ("k", "l", "m")]


def lag(contex: Contex) -> dict[str, Any]:
    return contex.ok("agents", "lag", "packer", "--json").record


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_consume_prints_and_acknowledges(contex: Contex, queue: list[str]) -> None:
    consumed = contex.ok("consume", "packer", "--until-idle", "--json").records
    assert [record["sequence"] for record in consumed] == queue
    claim = {"kind", "delivery_id", "attempt", "redriven"}
    assert consumed[0].keys() == EVENT_KEYS | MATCHED_KEYS | claim
    assert contex.ok("consume", "packer", "--until-idle").out == ""
    moved = contex.ok("agents", "seek", "packer", queue[1], "--json").record
    assert moved == {"agent_id": "packer", "position_sequence": queue[1], "cleared_count": 0}
    assert " m r1 " in contex.ok("consume", "packer", "--until-idle").out.replace("  ", " ")
    contex.ok("agents", "seek", "packer", "beginning")
    assert lag(contex)["backlog_count"] == 3
    contex.ok("agents", "seek", "packer", "end")
    assert lag(contex)["backlog_count"] == 0
    assert "goes on after" in contex("agents", "seek", "packer", "1h ago").out
    assert contex("agents", "seek", "packer", "never").code == ExitCode.USAGE


def test_the_exit_code_says_what_becomes_of_it(
    contex: Contex, queue: list[str], tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    program = (
        f"cat >>{seen}; "
        f'echo "$CONTEX_DATA_KEY $CONTEX_ATTEMPT $CONTEX_KIND $CONTEX_AGENT" >>{seen}; '
        'case "$CONTEX_DATA_KEY" in k) exit 0;; l) exit 65;; m) exit 7;; esac'
    )
    done = contex("consume", "packer", "--until-idle", "--consumer", "w", *SHELL, program)
    assert done.code == ExitCode.OK
    assert done.err.splitlines() == [
        "l, attempt 1: exit code 65, parked",
        "m, attempt 1: exit code 7, comes again",
    ]
    lines = seen.read_text().splitlines()
    assert lines[1::2] == [f"{key} 1 matched packer" for key in "klm"]
    assert [json.loads(line)["payload"] for line in lines[::2]] == [*"klm"]
    until(lambda: lag(contex)["acknowledged_sequence"] == queue[1])
    assert (lag(contex)["outstanding_count"], lag(contex)["parked_count"]) == (1, 1)
    shown = contex.ok("agents", "lag", "packer").out
    assert "1 wait for a retry" in shown
    assert "packer" in contex.ok("agents", "lag").out
    assert contex.ok("agents", "lag", "--json").record["agent_id"] == "packer"

    parked = contex.ok("parked", "list", "packer", "--json").record
    told = (parked["data_key"], parked["reason"], parked["cause"], parked["consumer"])
    assert told == ("l", "exit code 65", "consumer", "w")
    assert "exit code 65" in contex.ok("parked", "list", "packer").out
    assert contex("parked", "redrive", "packer").code == ExitCode.USAGE
    assert contex("parked", "drop", "packer", "1-0", "--all").code == ExitCode.USAGE
    assert contex.ok("parked", "redrive", "packer", "--all").out == "1 delivery on the way again\n"
    again = contex("consume", "packer", "--until-idle", "--json", *SHELL, "exit 65").records
    assert [(r["data_key"], r["attempt"], r["outcome"]) for r in again][:1] == [("l", 1, "parked")]
    drop = ("parked", "drop", "packer", parked["parked_id"], "--json")
    assert contex.ok(*drop).record["dropped_count"] in (0, 1)
    contex.ok("parked", "drop", "packer", "--all")
    assert contex.ok("parked", "list", "packer").out == "nothing is parked\n"


def test_no_such_command(contex: Contex, queue: list[str]) -> None:
    done = contex("consume", "packer", "--", "no-such-command-here")
    assert (done.code, done.out) == (ExitCode.USAGE, "")
    assert "no-such-command-here" in done.err
    assert lag(contex)["outstanding_count"] == 0


@pytest.mark.skipif(not shutil.which("setpriv"), reason="only Linux ends a process with another")
def test_a_command_ends_with_its_consumer(contex: Contex, queue: list[str], tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = f"echo $$ >{pid}; while :; do sleep 0.05; done"
    worker = contex.start("consume", "packer", *SHELL, program)
    until(lambda: pid.exists() and pid.read_text().endswith("\n"))
    worker.kill()
    worker.wait(20)
    until(lambda: not Path(f"/proc/{pid.read_text().strip()}").exists())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_commands_come_to_their_end(
    contex: Contex, queue: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    began, go = tmp_path / "began", tmp_path / "go"
    program = f"touch {began}; until test -e {go}; do sleep 0.05; done"
    worker = contex.start("consume", "packer", *SHELL, program)
    until(began.exists)
    worker.send_signal(number)
    with pytest.raises(TimeoutError):
        _wait(worker, 0.5)
    go.touch()
    assert worker.communicate(timeout=10) == ("", "")
    assert worker.returncode == ExitCode.OK
    rest = contex.ok("consume", "packer", "--until-idle", "--json").records
    assert [record["data_key"] for record in rest] == ["l", "m"]


def _wait(worker: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while worker.poll() is None:
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.05)


def test_what_a_killed_worker_has_comes_again(
    contex: Contex, queue: list[str], tmp_path: Path
) -> None:
    began = tmp_path / "began"
    program = f"echo $$ >{began}.part; mv {began}.part {began}; exec sleep 60"
    options = ("--consumer", "doomed", "--ack-deadline", "1s")
    worker = contex.start("consume", "packer", *options, *SHELL, program)
    until(began.exists)
    assert {c["name"] for c in lag(contex)["consumers"]} == {"doomed"}
    worker.kill()
    worker.wait(10)
    os.kill(int(began.read_text()), signal.SIGKILL)
    again = contex.start("consume", "packer", "--json", *SHELL, "exit 0")
    assert again.stdout is not None
    done = [json.loads(again.stdout.readline()) for _ in queue]
    assert {record["data_key"] for record in done} == {"k", "l", "m"}
    assert next(r["attempt"] for r in done if r["data_key"] == "k") == 2
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=10)
    assert again.returncode == ExitCode.OK

"""`contex replay` at a pace: in a pipe, and on a terminal with somebody who presses keys."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from contex_cli.exits import ExitCode

from tests.process.test_cli import CONTEX, Contex, contex, publish, target

__all__ = ["contex", "target"]

DEADLINE_S = 30.0
ENDLESS = ("--speed", "0.000001", "--max-pause", "1h")
"""A pause of an hour after each event."""


class Terminal:
    """A terminal on which a command runs, and one who looks at it."""

    def __init__(self, contex: Contex, *arguments: str, **streams: Any) -> None:
        self.screen = ""
        self._seen, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.before = termios.tcgetattr(terminal)
        self.process = subprocess.Popen(
            [*CONTEX, "replay", *arguments],
            **{"stdin": terminal, "stdout": terminal, "stderr": terminal, **streams},
            env={**os.environ, **contex.environment, "TERM": "xterm"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self._terminal = terminal

    def press(self, keys: str) -> None:
        os.write(self._seen, keys.encode())

    def look(self, seconds: float) -> str:
        """Looks on for a while; returns what has come up so far."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self._seen], [], [], left)[0]:
                self.screen += os.read(self._seen, 65_536).decode()
        return self.screen

    def until(self, holds: Callable[[str], object]) -> str:
        """Looks on until something is on the screen; what it was is cleared then."""
        end = time.monotonic() + DEADLINE_S
        while not holds(self.screen):
            assert time.monotonic() < end, self.screen
            self.look(0.02)
        screen, self.screen = self.screen, ""
        return screen

    def sees(self, text: str) -> str:
        return self.until(lambda screen: text in screen)

    def end(self) -> int:
        """The exit code; the terminal is then as it was before."""
        end = time.monotonic() + DEADLINE_S
        while self.process.poll() is None:
            assert time.monotonic() < end, self.screen
            self.look(0.02)
        self.look(0.05)
        assert termios.tcgetattr(self._terminal) == self.before
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._seen)
        os.close(self._terminal)


Watch = Callable[..., Terminal]


@pytest.fixture
def watch(contex: Contex) -> Iterator[Watch]:
    """Starts `contex replay` on a terminal."""
    terminals: list[Terminal] = []

    def start(*arguments: str, **streams: Any) -> Terminal:
        terminals.append(Terminal(contex, *arguments, **streams))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


@pytest.fixture
def five(contex: Contex) -> list[str]:
    """Five events, some milliseconds apart."""
    sequences = []
    for n in range(5):
        sequences.append(publish(contex, f"key{n}", str(n))["sequence"])
        time.sleep(0.005)
    return sequences


def test_keys_step_from_event_to_event(watch: Watch, five: list[str]) -> None:
    terminal = watch(*ENDLESS)
    terminal.sees("key0")
    for key, name in (("n", "key1"), ("\r", "key2"), ("n", "key3")):
        assert "key" not in terminal.look(0.2)
        terminal.press(key)
        terminal.sees(name)
    terminal.press("\n")
    terminal.sees("key4")
    assert terminal.end() == ExitCode.OK


def test_the_space_bar_pauses_and_goes_on(watch: Watch, five: list[str]) -> None:
    terminal = watch("--speed", "0.000001", "--max-pause", "1s")
    terminal.sees("key0")
    terminal.press(" ")
    terminal.sees("paused  speed 1e-06")
    assert "key" not in terminal.look(1.5)
    terminal.press(" ")
    shown = terminal.sees("key4")
    assert re.findall("key[0-9]", shown) == [f"key{n}" for n in range(1, 5)]
    assert terminal.end() == ExitCode.OK


def test_q_ends_a_pause_of_an_hour(watch: Watch, five: list[str]) -> None:
    terminal = watch(*ENDLESS)
    terminal.sees("key0")
    terminal.press("q")
    assert terminal.end() == ExitCode.OK
    terminal = watch(*ENDLESS, "--backwards", "--json")
    terminal.sees("key4")
    terminal.press(" ")
    terminal.sees("paused")
    terminal.press("nq")
    assert terminal.end() == ExitCode.OK


def test_other_keys_change_the_pace(watch: Watch, five: list[str]) -> None:
    terminal = watch("--speed", "0.00001", "--max-pause", "1h")
    terminal.sees("key0")
    terminal.press("-x")
    terminal.sees("speed 5e-06")
    terminal.press("+" * 20)
    shown = terminal.sees("key4")
    assert re.findall("key[0-9]", shown) == [f"key{n}" for n in range(1, 5)]
    assert terminal.end() == ExitCode.OK


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_terminal_as_it_was(
    watch: Watch, five: list[str], number: signal.Signals
) -> None:
    terminal = watch(*ENDLESS)
    terminal.sees("key0")
    if number is signal.SIGINT:
        terminal.press("\x03")
    else:
        terminal.process.send_signal(number)
    expected = ExitCode.INTERRUPTED if number is signal.SIGINT else ExitCode.TERMINATED
    assert terminal.end() == expected


def test_a_pause_holds_back_everything_and_loses_nothing(contex: Contex, watch: Watch) -> None:
    lines = "\n".join(
        json.dumps({"data_key": "k", "data": f"<{n:05}>" + "x" * 2_000}) for n in range(2_500)
    )
    publishing = contex.start("publish", "--stream", "-", stdin=subprocess.PIPE)
    publishing.communicate(lines, timeout=DEADLINE_S)
    assert publishing.returncode == ExitCode.OK
    terminal = watch("--json")
    shown = terminal.sees("<00000>")
    terminal.press(" ")
    shown += terminal.sees("paused")
    shown += terminal.look(0.3)
    terminal.screen = ""
    assert terminal.look(0.5) == ""
    assert "<02499>" not in shown
    terminal.press("n")
    shown += terminal.sees(">x")
    terminal.press(" ")
    shown += terminal.sees("<02499>")
    assert [int(n) for n in re.findall("<([0-9]{5})>", shown)] == [*range(2_500)]
    assert terminal.end() == ExitCode.OK


def test_without_both_ends_of_a_terminal_there_are_no_keys(
    watch: Watch, contex: Contex, five: list[str]
) -> None:
    terminal = watch(*ENDLESS, stdout=subprocess.PIPE)
    assert terminal.process.stdout is not None
    # It is printed at once, not when the pause is over.
    assert b"key0" in terminal.process.stdout.readline()
    terminal.press("nnn")
    assert select.select([terminal.process.stdout], [], [], 0.5)[0] == []
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == ExitCode.INTERRUPTED
    terminal.process.stdout.close()

    began = time.monotonic()
    done = contex("replay", "--speed", "0.000001", "--max-pause", "0.2s", "--json")
    assert time.monotonic() - began >= 0.8
    assert [record["sequence"] for record in done.records] == five
    assert done.err.startswith("replayed 5 events in ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--speed", "0"], "'0' is not a number above 0, at most 1,000,000"),
        (["--speed", "nan"], "'nan' is not a number above 0"),
        (["--speed", "x"], "'x' is not a number above 0"),
        (["--speed", "1000001"], "at most 1,000,000"),
        (["--speed", "1", "--max-pause", "0s"], "'0s' is not from a millisecond to an hour"),
        (["--speed", "1", "--max-pause", "61m"], "'61m' is not from a millisecond to an hour"),
        (["--speed", "1", "--max-pause", "night"], "is no length of time"),
        (["--max-pause", "5s"], "only together with --speed"),
    ],
)
def test_wrong_paces(contex: Contex, arguments: list[str], told: str) -> None:
    done = contex("replay", *arguments)
    assert done.code == ExitCode.USAGE
    assert told in done.err
    assert (arguments[-2] if len(arguments) > 1 else "--max-pause") in done.err

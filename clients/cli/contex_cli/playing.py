"""A replay that is watched on a terminal: keys pause it, go on, step and change its pace."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import contex

KEYS = "space pauses and goes on, n steps, + and - change the pace, q ends"
MAX_SPEED = 1_000_000.0
_MAX_PAUSE = timedelta(seconds=10)
_HELD_BACK_S = 1.0
"""Who is later than this is not hurried: the pace goes on from there."""


def has_keys() -> bool:
    """Whether somebody watches who can press keys: not in a pipe or in the background."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:  # It controls no session: it has no background.
        return True


@contextmanager
def keys(pressed: Callable[[str], object]) -> Iterator[None]:
    """Calls `pressed` with each key as it is pressed, without an echo, for the `with` block."""
    import termios
    import tty

    loop, terminal = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def read() -> None:
        with suppress(OSError):
            if data := os.read(terminal, 64):
                for key in data.decode(errors="replace"):
                    pressed(key)
                return
        loop.remove_reader(terminal)  # It hung up.
        pressed("")

    def take() -> None:
        # After Ctrl-Z the shell has set the terminal as it likes; in the background it is not ours.
        if has_keys():
            tty.setcbreak(terminal, termios.TCSANOW)

    take()
    loop.add_reader(terminal, read)
    loop.add_signal_handler(signal.SIGCONT, take)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGCONT)
        loop.remove_reader(terminal)
        if has_keys():
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


class Player:
    """Says when each event of a replay is shown.

    It reckons the pace itself, as the server does, so that keys take effect at once; what is not
    shown yet is not read.

    Args:
        speed: Multiple of the original pace; None: as fast as the events come.
        max_pause: The longest pause between two events.
        say: Shows how it stands, in a line that the next event replaces.
    """

    def __init__(
        self, speed: float | None, max_pause: timedelta | None, say: Callable[[str], object]
    ) -> None:
        self.is_paused = False
        self.ended = asyncio.Event()
        self._speed = speed
        self._max_pause_s = (_MAX_PAUSE if max_pause is None else max_pause).total_seconds()
        self._say = say
        self._steps = 0
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._shown_ms: int | None = None
        self._shown_s = self._paused_s = self._loop.time()

    def press(self, key: str) -> None:
        """Takes a key; an empty one: there will be no more."""
        match key:
            case " ":
                self._pause(not self.is_paused)
            case "n" | "\r" | "\n":
                self._pause(True)
                self._steps += 1
            case "+" if self._speed is not None:
                self._speed = min(self._speed * 2, MAX_SPEED)
            case "-" if self._speed is not None:
                self._speed = self._speed / 2 or self._speed
            case "q":
                self.ended.set()
            case "":
                self._pause(False)
            case _:
                return
        self._tell(key)
        self._changed.set()

    async def turn(self, event: contex.Event) -> bool:
        """Waits until an event is to be shown; False if none is any more."""
        unix_ms = int(event.sequence.partition("-")[0])
        await asyncio.sleep(0)  # Events that are here already would leave no room for keys.
        while not self.ended.is_set():
            now_s = self._loop.time()
            if self._steps:
                self._steps -= 1
                self._shown_s = self._paused_s = now_s
                break
            due_s = self._due_s(unix_ms, now_s)
            if not self.is_paused and due_s <= now_s:
                self._shown_s = due_s if now_s - due_s <= _HELD_BACK_S else now_s
                break
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(None if self.is_paused else due_s):
                    await self._changed.wait()
        self._shown_ms = unix_ms
        return not self.ended.is_set()

    def _due_s(self, unix_ms: int, now_s: float) -> float:
        if self._speed is None or self._shown_ms is None:
            return now_s
        gap_s = abs(unix_ms - self._shown_ms) / 1000 / self._speed
        return self._shown_s + min(gap_s, self._max_pause_s)

    def _pause(self, pause: bool) -> None:
        now_s = self._loop.time()
        if pause and not self.is_paused:
            self._paused_s = now_s
        elif self.is_paused and not pause:
            self._shown_s += now_s - self._paused_s
            self._steps = 0
        self.is_paused = pause

    def _tell(self, key: str) -> None:
        pace = "" if self._speed is None else f"  speed {self._speed:g}"
        if self.is_paused:
            self._say(f"paused{pace}  ({KEYS})")
        elif key in "+- ":
            self._say(pace.strip())

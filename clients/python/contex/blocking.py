"""What blocking streams share: the shape of their calls, and a limit to their reads."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

M = TypeVar("M", covariant=True)


class StreamCall(Protocol[M]):
    """A blocking call that streams its answers."""

    def __next__(self) -> M:
        """Blocks for the next answer."""

    def cancel(self) -> Any:
        """Ends the call."""


class Watchdog:
    """Cancels a blocking read that takes too long, which the read itself can't be told to do.

    One thread for each stream, started at its first read; not one timer for each message.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._call: StreamCall[object] | None = None
        self._since = 0.0
        self._stopped = False
        self.barked = False
        """Whether the last read was cancelled."""

    def watch(self, call: StreamCall[object]) -> Self:
        """Watches over a read, as a context manager."""
        with self._changed:
            self._call, self._since, self.barked = call, time.monotonic(), False
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(
                    target=self._run, name="contex-watchdog", daemon=True
                )
                self._thread.start()
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._call = None

    def stop(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _run(self) -> None:
        with self._changed:
            while not self._stopped:
                # A read that begins while this waits is looked at when the wait is over, and
                # then waited for exactly: nobody needs to wake this thread for each message.
                left = self._limit_s
                if self._call is not None and not self.barked:
                    left = self._since + self._limit_s - time.monotonic()
                    if left <= 0:
                        self.barked = True
                        self._call.cancel()
                        continue
                self._changed.wait(left)


def cancel(call: StreamCall[object] | None) -> None:
    """Ends a call, if there is one."""
    if call is not None:
        call.cancel()

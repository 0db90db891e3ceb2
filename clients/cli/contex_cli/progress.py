"""Progress of long work on stderr: a moving line on a terminal, one closing line elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from contex_cli import output as out

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_REFRESH_S = 0.1


class Progress:
    """Counts events, and says how many and how fast.

    Args:
        verb: What happens to the events, in the past tense: "replayed".
        shown: Whether to print anything at all.
        total_bytes: Size of the input, for a bar; None: no bar.
        bar: Whether there is a bar that `reach` moves.
        things: What is counted.
    """

    def __init__(
        self,
        verb: str,
        *,
        shown: bool = True,
        total_bytes: int | None = None,
        bar: bool = False,
        things: str = "events",
    ) -> None:
        self._verb = verb
        self._shown = shown
        self._total_bytes = total_bytes
        self._has_bar = bar or total_bytes is not None
        self._things = things
        self._bytes = 0
        self._events = 0
        self._started = self._refreshed = time.monotonic()
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    @property
    def events(self) -> int:
        """Events so far."""
        return self._events

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self._started

    def advance(self, events: int, size_bytes: int = 0) -> None:
        """Counts more events, and the bytes of input they took."""
        self._events += events
        self._bytes += size_bytes
        if self._bar is None or self._task is None:
            return
        now = time.monotonic()
        if now - self._refreshed >= _REFRESH_S:
            self._refreshed = now
            self._bar.update(self._task, completed=self._bytes, description=self.summary())

    def reach(self, events: int, total_events: int, *, done: int | None = None) -> None:
        """Sets how many events are done, out of how many.

        Args:
            events: What was made so far.
            total_events: How many there are to look at, as far as is known.
            done: How many were looked at; by default `events`.
        """
        self._events = events
        if self._bar is not None and self._task is not None:
            done = events if done is None else done
            total = max(done, total_events)
            self._bar.update(self._task, completed=done, total=total, description=self.summary())

    def summary(self) -> str:
        """The state in words."""
        seconds = max(self.seconds, 1e-6)
        return (
            f"{self._verb} {self._events:,} {self._things} in {seconds:.1f} s "
            f"({self._events / seconds:,.0f}/s)"
        )

    def __enter__(self) -> Self:
        if self._shown and out.error_console().is_terminal:
            from rich import progress

            columns: list[progress.ProgressColumn] = [progress.SpinnerColumn()]
            if self._has_bar:
                columns += [
                    progress.BarColumn(),
                    progress.TaskProgressColumn(),
                    progress.TimeRemainingColumn(),
                ]
            self._bar = progress.Progress(
                *columns,
                progress.TextColumn("{task.description}"),
                console=out.error_console(),
                transient=True,
            )
            self._task = self._bar.add_task(self._verb, total=self._total_bytes)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        done = error is None or (self._events and not isinstance(error, BrokenPipeError))
        if self._shown and done:
            out.error_console().print(self.summary())

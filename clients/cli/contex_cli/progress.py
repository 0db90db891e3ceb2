"""Progress of long work on stderr: a moving line on a terminal, one closing line elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

from contex_cli import output as out

if TYPE_CHECKING:
    from contex import ExportPiece
    from rich.progress import Progress as RichProgress

_REFRESH_S = 0.1


class Progress:
    """Counts events, and says how many and how fast.

    Args:
        verb: What happens to the events, in the past tense: "replayed".
        shown: Whether to print anything at all.
        bar: Whether there is a bar that `reach` moves.
        thing: What is counted.
    """

    def __init__(
        self, verb: str, *, shown: bool = True, bar: bool = False, thing: str = "event"
    ) -> None:
        self.events = 0
        self._verb = verb
        self._shown = shown
        self._has_bar = bar
        self._thing = thing
        self._started = self._refreshed = time.monotonic()
        self._bar: RichProgress | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def advance(self, events: int) -> None:
        """Counts more events."""
        self.events += events
        now = time.monotonic()
        if self._bar is not None and now - self._refreshed >= _REFRESH_S:
            self._refreshed = now
            self._update(None, None)

    def reach(self, events: int, total: int, *, done: int | None = None) -> None:
        """Sets the events, and how much of the input is done: of its events, or of its bytes."""
        self.events = events
        done = events if done is None else done
        self._update(done, max(done, total))

    def reach_piece(self, piece: ExportPiece) -> None:
        self.reach(piece.event_count, piece.total_count, done=piece.scanned_count)

    def _update(self, done: int | None, total: int | None) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, description=self.summary())

    def summary(self) -> str:
        seconds = max(self.seconds, 1e-6)
        return (
            f"{self._verb} {out.counted(self.events, self._thing)} in {seconds:.1f} s "
            f"({self.events / seconds:,.0f}/s)"
        )

    def __enter__(self) -> Self:
        if self._shown and out.error_console().is_terminal:
            from rich import progress

            columns: list[progress.ProgressColumn] = [progress.SpinnerColumn()]
            if self._has_bar:
                columns += [progress.BarColumn(), progress.TaskProgressColumn()]
                columns.append(progress.TimeRemainingColumn())
            self._bar = progress.Progress(
                *columns,
                progress.TextColumn("{task.description}"),
                console=out.error_console(),
                transient=True,
                # What is printed meanwhile goes above the bar, unless it goes elsewhere.
                redirect_stdout=sys.stdout.isatty(),
            )
            self._task = self._bar.add_task(self._verb, total=None)
            self._bar.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        done = error is None or (self.events and not isinstance(error, BrokenPipeError))
        if self._shown and done:
            out.error_console().print(self.summary())

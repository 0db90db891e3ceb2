"""What a call costs the process that it runs in."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROC = Path("/proc/self")
_SAMPLE_S = 0.002


@dataclass(slots=True)
class Cost:
    """What was used while something was measured.

    Attributes:
        held_ms: The longest time that one step held the loop, in processor time of its thread.
            Not the waiting for others, and not garbage collection, which is paid for by whoever
            allocates next.
        cpu_ms: Processor time of all threads of the process.
        memory_mib: By how much its memory exceeded what it was at the start.
        log_bytes: Length of the records that were logged, filled in by whoever captures them.
        answer_mib: Length of the answers, filled in by whoever reads them.
        where: The stack of the longest step, sampled.
    """

    held_ms: float = 0.0
    cpu_ms: float = 0.0
    memory_mib: float = 0.0
    log_bytes: int = 0
    answer_mib: float = 0.0
    where: str = ""


class LoopMeter:
    """Measures the steps of the loop that runs in the thread which made it.

    Attributes:
        peak_mib: The highest memory of this process while anything was measured or before it.
    """

    def __init__(self, *, sampled: bool = False) -> None:
        self._thread = threading.get_ident()
        self._sampled = sampled
        self.peak_mib = 0.0
        self._longest = 0.0
        self._where = ""
        self._step: list[str] = []
        self._since: float | None = None
        self._collecting = 0.0
        self._garbage = 0.0

    @contextmanager
    def installed(self) -> Iterator[LoopMeter]:
        """Looks at every step of the loop."""
        handle: Any = asyncio.events.Handle
        original, clock, meter = handle._run, time.thread_time, self

        def run(self: Any) -> None:
            if threading.get_ident() != meter._thread:
                original(self)
                return
            meter._garbage, meter._step, start = 0.0, [], clock()
            meter._since = start
            try:
                original(self)
            finally:
                meter._since = None
                held = clock() - start - meter._garbage
                if held > meter._longest:
                    meter._longest = held
                    meter._where = _most_common(meter._step) or repr(self)

        gc.callbacks.append(self._collected)
        handle._run = run
        stop = threading.Event()
        sampler = threading.Thread(target=self._sample, args=(stop,), daemon=True)
        if self._sampled:
            sampler.start()
        try:
            yield self
        finally:
            stop.set()
            handle._run = original
            gc.callbacks.remove(self._collected)

    @contextmanager
    def measuring(self, cost: Cost) -> Iterator[None]:
        """Fills in what the block costs."""
        gc.collect()
        self.peak_mib = max(self.peak_mib, _peak_memory())
        before = _reset_memory()
        self._longest, self._where = 0.0, ""
        cpu = time.process_time()
        yield
        cost.cpu_ms = (time.process_time() - cpu) * 1000
        cost.held_ms = self._longest * 1000
        peak = _peak_memory()
        self.peak_mib = max(self.peak_mib, peak)
        cost.memory_mib = peak - before
        cost.where = self._where

    def _collected(self, phase: str, _: object) -> None:
        if threading.get_ident() != self._thread:
            return
        if phase == "start":
            self._collecting = time.thread_time()
        else:
            self._garbage += time.thread_time() - self._collecting

    def _sample(self, stop: threading.Event) -> None:
        while not stop.wait(_SAMPLE_S):
            if self._since is not None:
                frame = sys._current_frames().get(self._thread)
                stack = traceback.extract_stack(frame)[-7:] if frame else []
                self._step.append(
                    " > ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in stack)
                )


def _most_common(stacks: list[str]) -> str:
    return "; ".join(f"{n} x {stack}" for stack, n in Counter(stacks).most_common(2))


def _reset_memory() -> float:
    """Resets the highest memory of this process; what it has now, in MiB. Linux only."""
    if not os.access(_PROC / "clear_refs", os.W_OK):
        return 0.0
    (_PROC / "clear_refs").write_text("5")
    return _status("VmRSS")


def _peak_memory() -> float:
    return _status("VmHWM") if os.access(_PROC / "clear_refs", os.W_OK) else 0.0


def _status(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", (_PROC / "status").read_text())
    return int(found[1]) / 1024 if found else 0.0

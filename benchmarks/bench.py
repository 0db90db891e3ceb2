"""What every benchmark is given."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console

from benchmarks.figures import Figure
from benchmarks.processes import ContexServer, contex_server


@dataclass(frozen=True, slots=True)
class Bench:
    """How to measure.

    Attributes:
        runs: How often each figure is measured.
        quick: Small sizes, to see that everything works; the figures mean little.
        data_dir: Where the servers' data go; on a real disk.
        profile_dir: Where statistics of the servers' event loops go, if anywhere.
    """

    runs: int
    quick: bool
    data_dir: Path
    console: Console
    profile_dir: Path | None = None

    def size(self, full: int, quick: int) -> int:
        """The full size, or the quick one."""
        return quick if self.quick else full

    def server(
        self, name: str, settings: Mapping[str, str] = {}
    ) -> AbstractAsyncContextManager[ContexServer]:
        """A fresh `contex serve`; `settings` are CONTEX_* variables."""
        profile = self.profile_dir / f"{name}.pstats" if self.profile_dir else None
        return contex_server(self.data_dir, profile=profile, settings=settings)

    def say(self, text: str) -> None:
        """Tells how it goes."""
        self.console.print(f"  [dim]{text}[/dim]", highlight=False)


class Case(Protocol):
    """A benchmark."""

    async def __call__(self, bench: Bench) -> list[Figure]:
        """Measures and reports."""
        ...

"""Indexes of the past: each is built for one question or backtest, and gone with it.

All of them together are bounded in bytes. Small ones have bytes of their own, so that questions
about small projects never wait for backtests of large ones.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from contex_server.kernel.byte_budget import ByteBudget, Share
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import Sequence
from contex_server.match.engine import MatchEngine
from contex_server.match.index import Index
from contex_server.state.state import State

_DATUM_BYTES = 2_500
"""What an index takes for a datum, more or less."""
_SMALL_BYTES = 16 * 1024 * 1024
_WAIT_S = 10.0
_RETRY_MS = 5_000


@dataclass(slots=True)
class PastIndex:
    """An index as of a moment, which may go on from there."""

    index: Index
    _share: Share

    def grown(self) -> None:
        """Counts it anew."""
        self._share.resize(max(self.index.nbytes, 1))


class PastIndexes:
    """Builds them.

    Args:
        engine: What they are built with.
        max_bytes: Of the large ones together, and of the small ones.
    """

    def __init__(self, engine: MatchEngine, max_bytes: int) -> None:
        self._engine = engine
        self.large = ByteBudget(max_bytes)
        self.small = ByteBudget(max_bytes)

    @asynccontextmanager
    async def open(
        self, project: str, state: State, as_of: Sequence, caller: Hashable = None
    ) -> AsyncIterator[PastIndex]:
        """The index of a state, for the `async with` block.

        Args:
            project: The project.
            state: Its data as of `as_of`.
            as_of: The moment.
            caller: Who shares turns with other scans of theirs; None: nobody.

        Raises:
            ContexError: OVERLOADED.
        """
        size = max(len(state) * _DATUM_BYTES, 1)
        budget = self.small if size < _SMALL_BYTES else self.large
        share = await budget.take_within(size, _WAIT_S)
        if share is None:
            raise ContexError(
                Reason.OVERLOADED,
                f"backtests and questions about the past hold indexes of {budget.held} bytes "
                f"already, and {size} more are too many: at most {budget.total} at once",
                metadata={"limit_bytes": str(budget.total)},
                retry_after_ms=_RETRY_MS,
            )
        try:
            scan = self._engine.scans.scan(project, caller)
            index = await self._engine.new_index(project, state.all(), as_of, worker=scan)
            yield PastIndex(index, share)
        finally:
            share.give_back()

"""Lists that stop at a limit, and say so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

from contex_server.cli.output import error_console

T = TypeVar("T")

_PAGE = 1_000


class Limited:
    """At most so many of a list.

    Args:
        limit: How many; 0: all.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._has_more = False

    @property
    def page_size(self) -> int:
        """How many to ask for at once: one more than the limit tells whether there is more."""
        return min(self._limit + 1, _PAGE) if self._limit else _PAGE

    async def of(self, items: AsyncIterator[T]) -> AsyncIterator[T]:
        """Passes on what the limit allows."""
        count = 0
        async for item in items:
            if self._limit and count == self._limit:
                self._has_more = True
                return
            count += 1
            yield item

    def remark(self, which: str = "first") -> None:
        """Says on stderr that there is more, if there is."""
        if self._has_more:
            error_console().print(f"the {which} {self._limit:,} are shown; --limit 0 shows all")

"""What clients and streams have in common: they are closed when a block ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class AsyncCloseable(ABC):
    """Can be used in an `async with`."""

    @abstractmethod
    async def close(self) -> None:
        """Ends it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

"""What decides where a project's events are kept, and for how long."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Self

import orjson

from contex_server.log.projects import ProjectStore

_OVER = 1.5


def is_over(used: float, most: float, segment: int) -> bool:
    """Whether a store holds far more of a project than the retention says: half as much again,
    and a segment, for events go by segments."""
    return used > _OVER * most + segment


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a project is kept. 0 sets no limit, None leaves it to the server's default.

    Attributes:
        store_seconds: Events older than this move from the store to the archive; ...
        store_events: ... and so do the oldest of more than so many, ...
        store_bytes: ... and of more than so many bytes: whatever comes first.
        archive_seconds: Events older than this are removed from the archive for good.
        legal_hold: Nothing is removed for good, whatever else says so.
    """

    store_seconds: int | None = None
    store_events: int | None = None
    store_bytes: int | None = None
    archive_seconds: int | None = None
    legal_hold: bool = False

    def over(self, defaults: Retention) -> Retention:
        """With the defaults for what it leaves open."""
        return replace(
            defaults,
            legal_hold=self.legal_hold,
            **{
                name: value
                for name, value in asdict(self).items()
                if value is not None and name != "legal_hold"
            },
        )

    def encode(self) -> bytes:
        """As it is stored."""
        return orjson.dumps(asdict(self))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Reads what `encode` wrote; b"" is one that leaves everything open."""
        return cls(**orjson.loads(data)) if data else cls()


class RetentionStore:
    """The retention of every project.

    Args:
        store: Where it is kept.
        defaults: What holds where a project sets nothing; nothing in it is None.
    """

    def __init__(self, store: ProjectStore, defaults: Retention) -> None:
        self._store = store
        self.defaults = defaults

    async def own(self, project: str) -> Retention:
        """What the project sets itself.

        Raises:
            ContexError: STORE_UNAVAILABLE.
        """
        return Retention.decode(await self._store.retention(project))

    async def of(self, project: str) -> Retention:
        """What holds; nothing in it is None.

        Raises:
            ContexError: STORE_UNAVAILABLE.
        """
        return (await self.own(project)).over(self.defaults)

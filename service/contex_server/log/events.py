"""What live streams need of the store beside the log itself."""

from __future__ import annotations

from typing import Protocol


class PresenceStore(Protocol):
    """Which streams each server process has open. See `EventLog` for errors."""

    async def put_presence(self, project: str, owner: str, presence: str) -> None:
        """Publishes what a server process has open in a project; "" withdraws it."""
        ...

    async def presence(self, project: str) -> dict[str, str]:
        """What each server process published last."""
        ...

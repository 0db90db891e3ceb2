"""Tasks, on Redis or Valkey.

task:<name>  string: the process that does a task, until it expires
"""

from __future__ import annotations

from contex_server.log.redis.client import Facet
from contex_server.log.redis.key_names import key
from contex_server.log.tasks import TaskStore


class RedisTasks(Facet, TaskStore):
    """`TaskStore` on Redis or Valkey."""

    async def claim(self, project: str, task: str, owner: str, ttl_ms: int) -> bool:
        name = key(project, f"task:{task}")
        return bool(await self._client.call(project, "contex1_claim", (name,), owner, ttl_ms))

    async def disclaim(self, project: str, task: str, owner: str) -> None:
        name = key(project, f"task:{task}")
        await self._client.call(project, "contex1_claim", (name,), owner, 0)

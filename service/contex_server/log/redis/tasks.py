"""Tasks, on Redis or Valkey.

task:<name>  string: the process that does a task, until it expires
"""

from __future__ import annotations

from contex_server.log.redis.client import Facet
from contex_server.log.tasks import TaskStore


class RedisTasks(Facet, TaskStore):
    async def claim(self, project: str, task: str, owner: str, ttl_ms: int) -> bool:
        kinds = (f"task:{task}",)
        return await self._client.attempt(project, "contex1_claim", kinds, owner, ttl_ms)

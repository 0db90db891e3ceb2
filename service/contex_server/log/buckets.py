"""Which bucket a project is in."""

from __future__ import annotations

import binascii
from functools import lru_cache

BUCKETS = 256


def target_project(project: str) -> str:
    """The project that a staged import will become; any other project is its own target.

    A staged project is named after its target, followed by "~" and an id.
    """
    return project.partition("~")[0]


@lru_cache(maxsize=65_536)
def bucket_of(project: str) -> int:
    """The bucket of a project: CRC16 as in Redis Cluster, modulo 256.

    A staged project is in the bucket of its target.
    """
    return binascii.crc_hqx(target_project(project).encode(), 0) % BUCKETS

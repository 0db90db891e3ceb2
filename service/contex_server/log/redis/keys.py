"""The names of a project's keys in the store."""

from __future__ import annotations

import binascii
from functools import lru_cache
from hashlib import blake2b

from contex_server.kernel.model import Sequence
from contex_server.log.transfer import named

BUCKETS = 256


@lru_cache(maxsize=65_536)
def bucket_of(project: str) -> int:
    """The bucket of a project: CRC16 as in Redis Cluster, modulo 256.

    A staged project, whose name goes on with "~", lies where its project does.
    """
    return binascii.crc_hqx(named(project).encode(), 0) % BUCKETS


@lru_cache(maxsize=65_536)
def key(project: str, kind: str) -> str:
    """The name of one of a project's keys."""
    return f"ctx:{{{bucket_of(project)}}}:p:{project}:{kind}"


def projects_key(bucket: int) -> str:
    """The name of the key that the projects of a bucket are listed in."""
    return f"ctx:{{{bucket}}}:projects"


def vectors_key(project: str, model: str) -> str:
    """The name of the key that holds a project's encodings under a model."""
    return key(project, f"vectors:{blake2b(model.encode(), digest_size=6).hexdigest()}")


def agent_keys(project: str, agent_id: str) -> tuple[str, ...]:
    """The names of the keys that an agent's journal and registration are in, in the order
    that the functions take them."""
    return (
        key(project, f"journal:{agent_id}"),
        key(project, f"sent:{agent_id}"),
        key(project, f"streams:{agent_id}"),
        key(project, "journals"),
        key(project, "agents"),
        key(project, "cursors"),
    )


def counted_keys(project: str) -> tuple[str, ...]:
    """The names of the keys that whatever appends writes to, in the order that the functions
    take them."""
    return (
        key(project, "events"),
        key(project, "stats"),
        key(project, "activity"),
        key(project, "activity-open"),
        key(project, "audit"),
    )


def parse_sequence(text: bytes) -> Sequence:
    """A sequence as the store writes it."""
    return Sequence.parse(text.decode())

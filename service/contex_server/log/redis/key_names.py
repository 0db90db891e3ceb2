"""The names of a project's keys in the store.

Those of a project begin with `ctx:{b}:p:<project>:`, where `b` is its bucket and `{b}` the
cluster's hash tag, so they share a slot; each module here lists the ones it uses.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

from contex_server.kernel.model import Sequence
from contex_server.log.buckets import bucket_of


@lru_cache(maxsize=65_536)
def key(project: str, kind: str) -> str:
    """One of a project's keys."""
    return f"ctx:{{{bucket_of(project)}}}:p:{project}:{kind}"


def projects_key(bucket: int) -> str:
    """The key that lists the projects of a bucket."""
    return f"ctx:{{{bucket}}}:projects"


def vectors_key(project: str, model: str) -> str:
    """The key of a project's encodings under a model."""
    return key(project, f"vectors:{blake2b(model.encode(), digest_size=6).hexdigest()}")


def agent_keys(project: str, agent_id: str) -> tuple[str, ...]:
    """The keys of an agent's journal and registration, in the order the functions take them."""
    return (
        key(project, f"journal:{agent_id}"),
        key(project, f"sent:{agent_id}"),
        key(project, f"streams:{agent_id}"),
        key(project, "journals"),
        key(project, "agents"),
        key(project, "cursors"),
    )


def counted_keys(project: str) -> tuple[str, ...]:
    """The keys that every append writes to, in the order the functions take them."""
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

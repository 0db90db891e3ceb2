"""The names of a project's keys in the store.

They are `ctx:{b}:p:<project>:<kind>`, where `b` is the project's bucket and `{b}` the cluster's
hash tag, so they share a slot. `Client` takes kinds; each module here lists the ones it uses.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

from contex_server.kernel.model import BEGINNING, Sequence
from contex_server.log.buckets import bucket_of


@lru_cache(maxsize=65_536)
def key(project: str, kind: str) -> str:
    """One of a project's keys."""
    return f"ctx:{{{bucket_of(project)}}}:p:{project}:{kind}"


def projects_key(bucket: int) -> str:
    """The key that lists the projects of a bucket."""
    return f"ctx:{{{bucket}}}:projects"


def appended_channel(bucket: int) -> str:
    """The channel on which the names of a bucket's projects are announced that have new events."""
    return f"ctx:{{{bucket}}}:appended"


PROBE_MS = 60_000
"""How long the key of a bucket lasts that shows that a write succeeds."""

COUNTED = ("events", "stats", "activity", "activity-open", "audit")
"""The kinds that every append writes to, in the order the functions take them."""


def vectors_kind(model: str) -> str:
    """The kind of the key that holds the encodings under a model."""
    return f"vectors:{blake2b(model.encode(), digest_size=6).hexdigest()}"


def backgrounds_kind(scoring_model: str) -> str:
    """The kind of the key that holds the backgrounds of a scoring model."""
    return f"backgrounds:{blake2b(scoring_model.encode(), digest_size=6).hexdigest()}"


def agent_kinds(agent_id: str) -> tuple[str, ...]:
    """The kinds of an agent's journal and registration, in the order the functions take them."""
    own = (f"journal:{agent_id}", f"sent:{agent_id}", f"streams:{agent_id}")
    return (*own, "journals", "agents", "cursors")


def parse_sequence(text: bytes | None) -> Sequence:
    """A sequence as the store writes it; the beginning if it has none."""
    return Sequence.parse(text.decode()) if text else BEGINNING

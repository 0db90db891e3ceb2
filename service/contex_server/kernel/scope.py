"""What a caller may see of a project. See docs/adr/0034."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

from contex_server.kernel import globs


@dataclass(frozen=True, slots=True)
class Scope:
    """What a caller may see. Equal scopes share work.

    A reader asks `is_open` first, so that an unrestricted caller costs nothing.

    Attributes:
        data_keys: Globs over data keys. None admits every event; otherwise only events with
            a matching data key are admitted, so that an empty set admits nothing.
    """

    data_keys: frozenset[str] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the caller may see everything."""
        return self.data_keys is None

    def admits(self, data_key: str) -> bool:
        """Whether the caller may see events of this data key; "" for events without one."""
        if self.data_keys is None:
            return True
        return bool(data_key) and globs.match(self.data_keys, data_key)

    def covers(self, other: Scope) -> bool:
        """Whether all that the other admits is admitted; False also where that is not seen."""
        if self.data_keys is None or self == other:
            return True
        return other.data_keys is not None and _covers(self.data_keys, other.data_keys)

    def intersect(self, other: Scope) -> Scope:
        """What both admit, and nothing else: less where it can't be said by globs, as of "a*b" and
        "*c*"."""
        if self.data_keys is None or other.data_keys is None:
            return other if self.data_keys is None else self
        return Scope(_intersection(self.data_keys, other.data_keys))

    @property
    def digest(self) -> str:
        """Tells it from others; "" of one that is open."""
        return "" if self.data_keys is None else _digest(self.data_keys)


@lru_cache(maxsize=4_096)
def _covers(some: frozenset[str], others: frozenset[str]) -> bool:
    return all(any(globs.covers(glob, other) for glob in some) for other in others - some)


@lru_cache(maxsize=512)
def _intersection(some: frozenset[str], others: frozenset[str]) -> frozenset[str]:
    return frozenset().union(*(globs.intersect(one, other) for one in some for other in others))


@lru_cache(maxsize=1_024)
def _digest(some: frozenset[str]) -> str:
    return hashlib.blake2b("\0".join(sorted(some)).encode(), digest_size=16).hexdigest()


EVERYTHING = Scope()
NOTHING = Scope(frozenset())

"""A cache of what was used lately, bounded in bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Keeps what was put or found lately, in two generations: whenever the younger one has half of
    the bytes, it becomes the older one, and what nobody has asked for meanwhile is dropped.

    So a lookup changes nothing where it finds something in the younger one, unlike one in an LRU
    cache. Threads that share it may lose what one of them puts, nothing else.

    Args:
        max_bytes: Of both generations.
        size: The bytes of a key with its value.
    """

    def __init__(self, max_bytes: int, size: Callable[[K, V], int]) -> None:
        self._half = max_bytes // 2
        self._size = size
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}
        self._bytes = 0

    def get(self, key: K) -> V | None:
        """What is kept under a key."""
        found = self._young.get(key)
        if found is None and (found := self._old.get(key)) is not None:
            self.put(key, found)
        return found

    def put(self, key: K, value: V) -> None:
        """Keeps a value under a key that has none in the younger generation."""
        size = self._size(key, value)
        if self._bytes + size > self._half:
            self._old, self._young, self._bytes = self._young, {}, 0
        if size <= self._half:
            self._young[key] = value
            self._bytes += size

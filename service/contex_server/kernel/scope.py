"""What a caller may see of a project: today everything, later what its rights say."""

from __future__ import annotations

from dataclasses import dataclass

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


EVERYTHING = Scope()

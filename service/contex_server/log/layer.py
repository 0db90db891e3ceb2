"""What wraps a log and changes some of what it does."""

from __future__ import annotations

from typing import Any

from contex_server.log.port import EventLog


class LogLayer:
    """Does everything that it doesn't define itself with the log below.

    A layer that defines what it changes is an `EventLog`; that can't be told to the type
    checker, so whoever builds one casts it.
    """

    def __init__(self, below: EventLog) -> None:
        self._below = below

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._below, name)

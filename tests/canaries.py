"""A value that stands for what must not be in a log: payloads and keys of the tests hold it.

Every server of a test has its log searched for it afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from contex_server.kernel.telemetry import clean
from structlog.testing import capture_logs
from structlog.typing import EventDict

CANARY = "907152836409173"
"""Digits alone: as a payload it is a JSON number, which no need matches by its words."""


def captured_logs() -> AbstractContextManager[list[EventDict]]:
    """`capture_logs`, of records as they are written."""
    return capture_logs(processors=[clean])


def check_for_canaries(logs: Iterable[Mapping[str, Any]]) -> None:
    """Fails if a log holds the canary, as text or as bytes."""
    assert [entry for entry in logs if CANARY in repr(entry)] == []

"""Delays double up to their maximum, with jitter, and begin anew after a success."""

from __future__ import annotations

from contex_server.kernel.backoff import Backoff


def test_delays() -> None:
    backoff = Backoff(1.0, 5.0)
    for value in (1.0, 2.0, 4.0, 5.0, 5.0):
        assert value / 2 <= backoff.next_s() <= value
    backoff.reset()
    assert 0.5 <= backoff.next_s() <= 1.0

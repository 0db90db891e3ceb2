from __future__ import annotations

import io

import pytest
from contex_cli import output, progress
from rich.console import Console


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100, highlight=False)
    monkeypatch.setattr(output, "error_console", lambda: console)
    return written


def test_a_total_that_is_told_on_the_way_moves_the_bar(errors: io.StringIO) -> None:
    with progress.Progress("read", bar=True) as shown:
        shown.reach(10, 40)
        assert shown.events == 10
        shown.reach(45, 40)  # the total was an estimate
    assert "100%" in errors.getvalue()
    assert "read 45 events in" in errors.getvalue()


def test_what_is_counted_can_be_named(errors: io.StringIO) -> None:
    with progress.Progress("exported", thing="judgement") as shown:
        shown.advance(2)
    assert "exported 2 judgements in" in errors.getvalue()
    assert "%" not in errors.getvalue()

"""Turns of scans: who comes next, and what cancelling does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest
from contex_server.match import turns
from contex_server.match.turns import Turns, each


class Blocked:
    """Turns whose thread is at work until it is let go."""

    def __init__(self) -> None:
        self.turns = Turns("test-scan")
        self.go = threading.Event()
        self.done: list[str] = []
        self._first = asyncio.create_task(self.turns.scan("first").work(self.go.wait))

    def ask(self, project: str, caller: str, name: str) -> asyncio.Task[None]:
        scan = self.turns.scan(project, caller)
        return asyncio.create_task(scan.work(self.done.append, name))

    async def finish(self, *asked: asyncio.Task[None]) -> list[str]:
        self.go.set()
        await asyncio.gather(self._first, *asked, return_exceptions=True)
        return self.done


@pytest.fixture
async def blocked() -> AsyncIterator[Blocked]:
    made = Blocked()
    await asyncio.sleep(0)
    yield made
    await made.finish()
    await made.turns.close()


async def test_turns_go_round_by_project_and_then_by_caller(blocked: Blocked) -> None:
    asked = [
        blocked.ask(project, caller, f"{project}-{caller}-{n}")
        for project, caller, count in (("a", "x", 3), ("a", "y", 1), ("b", "x", 2))
        for n in range(count)
    ]
    await asyncio.sleep(0)
    assert blocked.turns.waiting == 6
    expected = ["a-x-0", "b-x-0", "a-y-0", "b-x-1", "a-x-1", "a-x-2"]
    assert await blocked.finish(*asked) == expected
    assert blocked.turns.waiting == 0


async def test_who_leaves_is_passed_over(blocked: Blocked) -> None:
    asked = [blocked.ask("a", "x", f"{n}") for n in range(3)]
    await asyncio.sleep(0)
    asked[1].cancel()
    await asyncio.sleep(0)
    assert blocked.turns.waiting == 2
    assert await blocked.finish(*asked) == ["0", "2"]


async def test_a_turn_that_comes_as_its_caller_leaves_goes_to_the_next(blocked: Blocked) -> None:
    asked = [blocked.ask("a", "x", f"{n}") for n in range(2)]
    await asyncio.sleep(0)
    blocked.turns.end()  # The first one's turn; it has not noticed yet.
    asked[0].cancel()
    assert await blocked.finish(*asked) == ["1"]


async def test_cancelling_takes_effect_at_the_next_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SLICE_S", 0.001)
    scans, done = Turns("test-scan"), list[int]()

    def one(item: int) -> None:
        time.sleep(0.005)
        done.append(item)

    task = asyncio.create_task(each(scans.scan("a"), one, range(1_000)))
    while not done:
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    count = len(done)
    assert await each(scans.scan("b"), str, range(3)) == ["0", "1", "2"]
    assert len(done) == count < 1_000
    await scans.close()

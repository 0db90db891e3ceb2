from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from contex_server.matching.embedders.batcher import Batcher, unhurried
from contex_server.matching.embedders.port import Vector


class Model:
    """Embeds a text as its length; records the turns and can be held or broken."""

    def __init__(self) -> None:
        self.turns: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.under_way = self.most = 0

    async def __call__(self, texts: list[str]) -> Sequence[Vector | Exception]:
        self.turns.append(texts)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.gate.wait()
            for _ in range(3):
                await asyncio.sleep(0)
        finally:
            self.under_way -= 1
        if self.error is not None:
            raise self.error
        return [
            ValueError(text) if text.startswith("bad") else np.array([len(text)], np.float32)
            for text in texts
        ]


def batcher(model: Model, *, concurrency: int = 1, texts: int = 64, cached: int = 100) -> Batcher:
    return Batcher(
        model,
        texts_per_turn=texts,
        chars_per_turn=8_000,
        concurrency=concurrency,
        cached_texts=cached,
    )


async def lengths(batches: Batcher, *texts: str) -> list[float]:
    return [float(row[0]) for row in await batches.embed(texts)]


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_waiting_callers_are_served_together() -> None:
    model = Model()
    batches = batcher(model)
    answers = await asyncio.gather(*(lengths(batches, "x" * n, "shared") for n in range(1, 6)))
    assert answers == [[n, 6] for n in range(1, 6)]
    assert model.turns == [["x", "xx", "xxx", "xxxx", "xxxxx", "shared"]]


async def test_recent_texts_are_not_embedded_again() -> None:
    model = Model()
    batches = batcher(model, cached=2)
    for text in ("a", "bb", "a", "ccc", "bb"):
        assert await lengths(batches, text, text) == [len(text)] * 2
    assert model.turns == [["a"], ["bb"], ["ccc"], ["bb"]]
    assert batches.is_recent("bb")
    assert not batches.is_recent("a")


async def test_a_turn_is_bounded() -> None:
    model = Model()
    texts = [f"{n:03}" for n in range(150)] + [f"{n}" * 5_000 for n in range(3)]
    assert await lengths(batcher(model), *texts) == [3.0] * 150 + [5_000.0] * 3
    assert [len(turn) for turn in model.turns] == [64, 64, 24, 1]


async def test_a_caller_with_many_texts_delays_nobody_by_more_than_a_turn() -> None:
    model = Model()
    batches = batcher(model, texts=4)
    many = asyncio.create_task(batches.embed([f"many {n}" for n in range(40)]))
    await settled()
    assert await lengths(batches, "one", "two") == [3, 3]
    assert not many.done()
    few = next(n for n, turn in enumerate(model.turns) if "two" in turn)
    assert few <= 2
    await many


async def test_a_text_already_waited_for_comes_at_the_turn_of_whoever_is_first() -> None:
    model = Model()
    batches = batcher(model, texts=2)
    many = asyncio.create_task(batches.embed([f"many {n}" for n in range(20)]))
    await settled()
    assert await lengths(batches, "many 19") == [7]
    assert not many.done()
    await many
    assert sum(map(len, model.turns)) == 20


async def test_turns_under_way_are_bounded() -> None:
    model = Model()
    batches = batcher(model, concurrency=3, texts=1)
    model.gate.clear()
    callers = [asyncio.create_task(lengths(batches, "x" * n)) for n in range(1, 8)]
    await settled()
    assert model.under_way == 3
    model.gate.set()
    assert await asyncio.gather(*callers) == [[n] for n in range(1, 8)]
    assert model.most == 3


async def test_a_cancelled_caller_takes_nobody_along() -> None:
    model = Model()
    batches = batcher(model)
    model.gate.clear()
    running = asyncio.create_task(lengths(batches, "first"))
    await settled()
    leaving = asyncio.create_task(lengths(batches, "shared", "only mine"))
    staying = asyncio.create_task(lengths(batches, "shared"))
    await settled()
    leaving.cancel()
    running.cancel()
    await asyncio.wait([leaving, running])
    model.gate.set()
    assert await staying == [6]
    assert model.turns == [["first"], ["shared"]]
    assert await lengths(batches, "first") == [5]
    assert len(model.turns) == 2


async def test_a_failure_reaches_its_callers_and_no_one_else() -> None:
    model = Model()
    batches = batcher(model)
    model.error = MemoryError("no room")
    failed = await asyncio.gather(
        lengths(batches, "a", "b"), lengths(batches, "b"), return_exceptions=True
    )
    assert [str(error) for error in failed] == ["no room", "no room"]
    model.error = None
    assert await lengths(batches, "a") == [1]


async def test_a_text_may_fail_alone() -> None:
    model = Model()
    batches = batcher(model)
    good, bad = await asyncio.gather(
        lengths(batches, "good"), lengths(batches, "bad"), return_exceptions=True
    )
    assert good == [4.0]
    assert isinstance(bad, ValueError)


async def test_closing_fails_who_waits() -> None:
    model = Model()
    batches = batcher(model)
    model.gate.clear()
    waiting = [asyncio.create_task(batches.embed([text])) for text in ("a", "b")]
    await settled()
    late = asyncio.create_task(batches.embed(["c"]))
    await settled()
    await batches.close()
    for outcome in await asyncio.gather(*waiting, late, return_exceptions=True):
        assert str(outcome) == "the embedder was closed"
    with pytest.raises(RuntimeError, match="closed"):
        await batches.embed(["d"])


def test_it_serves_one_event_loop_after_the_other() -> None:
    batches = batcher(model := Model())
    for text in ("a", "bb"):
        assert asyncio.run(lengths(batches, text)) == [len(text)]
    assert model.turns == [["a"], ["bb"]]


async def test_unhurried_texts_let_others_go_first_in_short_turns() -> None:
    model = Model()
    batches = batcher(model, texts=8)

    async def reembed() -> None:
        with unhurried():
            await batches.embed([f"old {n}" for n in range(8)])

    model.gate.clear()
    slow = asyncio.create_task(reembed())
    await settled()
    new = asyncio.create_task(lengths(batches, *(f"new {n}" for n in range(10))))
    await settled()
    assert model.turns == [["old 0", "old 1"]]
    model.gate.set()
    assert await new == [5] * 10
    assert [len(turn) for turn in model.turns[:3]] == [2, 8, 2]
    assert not slow.done()
    await slow
    assert [turn[0] for turn in model.turns[3:]] == ["old 2", "old 4", "old 6"]


async def test_unhurried_texts_come_at_last_however_many_others_there_are() -> None:
    model = Model()
    batches = batcher(model, texts=4)
    everyone = asyncio.create_task(batches.embed([f"new {n}" for n in range(400)]))
    await settled()
    with unhurried():
        await batches.embed(["old"])
    assert not everyone.done()
    assert 10 < next(n for n, turn in enumerate(model.turns) if turn == ["old"]) < 20
    await everyone


async def test_an_unhurried_text_that_others_want_too_comes_at_their_turn() -> None:
    model = Model()
    batches = batcher(model, texts=4)

    async def reembed() -> None:
        with unhurried():
            await batches.embed([f"old {n}" for n in range(9)])

    model.gate.clear()
    slow = asyncio.create_task(reembed())
    await settled()
    new = asyncio.create_task(lengths(batches, "old 8"))
    await settled()
    model.gate.set()
    assert await new == [5]
    assert model.turns[:2] == [["old 0"], ["old 8"]]
    await slow
    assert sorted(text for turn in model.turns for text in turn) == [f"old {n}" for n in range(9)]

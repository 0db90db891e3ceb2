"""When a watched replay shows its events. Lower bounds only: a busy machine is late."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from contex_cli.playing import MAX_SPEED, Player

ENDLESS = timedelta(hours=1)


def event(unix_ms: int) -> Any:
    return SimpleNamespace(sequence=f"{unix_ms}-0")


def now() -> float:
    return asyncio.get_running_loop().time()


class Said(list[str]):
    def __call__(self, text: str) -> None:
        self.append(text)


async def test_it_keeps_the_pace() -> None:
    began, player = now(), Player(2.0, None, Said())
    for number in range(4):
        assert await player.turn(event(1_000 + 200 * number))
        assert now() - began >= number * 0.1


@pytest.mark.parametrize("order", [1, -1])
async def test_a_pause_is_cut(order: int) -> None:
    began, player = now(), Player(1.0, timedelta(seconds=0.1), Said())
    for number in range(4):
        assert await player.turn(event(10**12 + order * number * 10**8))
        assert now() - began >= number * 0.1


async def test_without_a_pace_nothing_is_waited_for() -> None:
    player = Player(None, None, Said())
    for number in range(1_000):
        assert await player.turn(event(number * 10**6))
    player.press("+")
    player.press("-")
    assert await player.turn(event(10**12))


async def test_how_long_it_was_held_does_not_count() -> None:
    """What is left of a pause when it is held follows when it goes on."""
    said = Said()
    player = Player(1.0, ENDLESS, said)
    assert await player.turn(event(1_000))
    waiting = asyncio.create_task(player.turn(event(1_300)))
    player.press(" ")
    await asyncio.sleep(0.5)
    assert not waiting.done()
    began = now()
    player.press(" ")
    assert await waiting
    assert now() - began >= 0.2
    assert [text.partition("  (")[0] for text in said] == ["paused  speed 1", "speed 1"]


async def test_a_step_pauses() -> None:
    player = Player(1.0, ENDLESS, Said())
    assert await player.turn(event(0))
    for key in ("n", "\r", "\n"):
        waiting = asyncio.create_task(player.turn(event(10**9)))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        player.press(key)
        assert await waiting
        assert player.is_paused
    player.press("nnn")  # no key
    assert player.is_paused


async def test_without_more_keys_a_pause_is_over() -> None:
    player = Player(None, None, Said())
    player.press(" ")
    waiting = asyncio.create_task(player.turn(event(0)))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    player.press("")
    assert await waiting


async def test_q_ends_what_is_waited_for() -> None:
    player = Player(1.0, ENDLESS, Said())
    assert await player.turn(event(0))
    waiting = asyncio.create_task(player.turn(event(10**9)))
    await asyncio.sleep(0.02)
    player.press("q")
    assert not await waiting
    assert not await player.turn(event(10**9))


async def test_the_speed_stays_a_speed() -> None:
    said = Said()
    player = Player(1.0, None, said)
    for _ in range(2_000):
        player.press("-")
    assert float(said[-1].removeprefix("speed ")) > 0
    for _ in range(4_000):
        player.press("+")
    assert said[-1] == f"speed {MAX_SPEED:g}"

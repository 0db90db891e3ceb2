"""Decisions that come out of order, as they would by a defect."""

from __future__ import annotations

from typing import Any

import pytest
from contex_server.inbox import deciders
from contex_server.log.redis.key_names import key

from tests.canaries import captured_logs
from tests.integration.support import Api, P, event, eventually


def told_of(logs: list[Any]) -> list[Any]:
    return [each for each in logs if each["event"] == "decision_out_of_order"]


async def test_one_that_comes_too_late_is_told_and_holds_up_nobody(
    word_api: Api, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deciders, "_LOOK_S", 0.02)
    for agent_id in ("a", "b"):
        await word_api.register(agent_id, "alpha")
    streams = [await word_api.listen(agent_id).live() for agent_id in ("a", "b")]
    await word_api.publish(event("one", b'"alpha"'))
    for stream in streams:
        await stream.count(1)
    await streams[0].cancel()
    name = key(P, "inbox:a")
    ((place, fields),) = await store.xrange(name)
    later = f"{int(place.split(b'-')[0]) + 3_600_000}-0"
    await store.xadd(name, fields, id=later)
    with captured_logs() as logs:
        await word_api.publish(event("two", b'"alpha"'))
        await streams[1].count(2)
        await eventually(lambda: len(told_of(logs)) == 2)
    told = told_of(logs)
    assert [(each["agent_id"], each["last"], each["lost"]) for each in told] == [
        ("a", later, False),  # Deciding anew might have put it right.
        ("a", later, True),
    ]
    assert [row[0].decode() for row in await store.xrange(name)] == [place.decode(), later]

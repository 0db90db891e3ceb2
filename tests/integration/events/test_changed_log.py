"""A token is of one log: it isn't taken for a place of another that has grown where that was."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from contex.v1.agent_service_pb2 import AcknowledgeRequest
from contex_server.api.shared.cursors import Token, decode_position, encode_position
from contex_server.kernel.model import Proven
from contex_server.log.redis.key_names import key
from contex_server.server import Server

from tests.integration.logs import archive
from tests.integration.support import DEADLINE_S, Api, P, Refusal, event, refusal

Use = Callable[[Api, str], Awaitable[Refusal | None]]


async def copied(store: Any) -> dict[bytes, bytes]:
    """All that the store holds."""
    dumps = {name: await store.dump(name) async for name in store.scan_iter(count=1_000)}
    return {name: dump for name, dump in dumps.items() if dump is not None}  # Some expire.


async def put_back(store: Any, copy: dict[bytes, bytes]) -> None:
    """Makes the store what it was when it was copied."""
    await store.flushall()
    for name, value in copy.items():
        await store.restore(name, 0, value, replace=True)


async def ended(stream: Any) -> Refusal | None:
    """Why a stream ends at once; None if it goes on."""
    try:
        await stream.live()
    except Exception:
        return await stream.refusal()
    await stream.cancel()
    return None


async def answered(call: Awaitable[Any]) -> Refusal | None:
    try:
        await call
    except Exception as error:
        return Refusal.of(error)  # type: ignore[arg-type]
    return None


async def subscribed(api: Api, cursor: str) -> Refusal | None:
    return await ended(api.subscribe(cursor=cursor))


async def listened(api: Api, cursor: str) -> Refusal | None:
    return await ended(api.listen("a", cursor=cursor))


async def replayed(api: Api, cursor: str) -> Refusal | None:
    return await answered(api.replay(cursor=cursor).to_end())


async def acknowledged(api: Api, cursor: str) -> Refusal | None:
    request = AcknowledgeRequest(project=P, agent_id="a", cursor=cursor)
    return await answered(api.agents.Acknowledge(request, timeout=DEADLINE_S))


async def paged(api: Api, cursor: str) -> Refusal | None:
    place = decode_position(Token.CURSOR, P, cursor)
    return await answered(api.page(page_token=encode_position(Token.EVENTS_PAGE, P, place)))


USES: list[Use] = [subscribed, listened, replayed, acknowledged, paged]


def without_proof(cursor: str) -> str:
    """The cursor as earlier versions made it."""
    return encode_position(Token.CURSOR, P, Proven.of(decode_position(Token.CURSOR, P, cursor)))


@pytest.mark.own_store
@pytest.mark.parametrize("earlier", [False, True], ids=["proven", "of earlier versions"])
async def test_an_older_copy_that_has_grown_is_recognised(
    word_api: Api, store: Any, earlier: bool
) -> None:
    await word_api.register("a", "apples")
    await word_api.publish(event("k", b'"apples"'))
    kept = (await word_api.subscribe().live()).cursor
    copy = await copied(store)
    stream = await word_api.subscribe(cursor=kept).live()
    await word_api.publish(event("k", b'"more apples"'))
    lost = (await stream.count(1)).cursor
    await stream.cancel()
    if earlier:
        kept, lost = without_proof(kept), without_proof(lost)
    for use in USES:
        assert await use(word_api, lost) is None, use
    await put_back(store, copy)
    for grown in (False, True):
        if grown:
            await word_api.publish(event("k", b'"apples again"'))
        for use in USES:
            refused = await use(word_api, lost)
            assert refused is not None, use
            assert (refused.code, refused.reason) == ("DATA_LOSS", "LOG_CHANGED"), use
            assert refused.metadata["sequence"] in refused.message
            assert await use(word_api, kept) is None, use


async def test_another_event_with_the_same_sequence_is_recognised(api: Api, store: Any) -> None:
    await api.publish(event("k"), event("other"))
    cursor = (await api.subscribe().live()).cursor
    (before, _), (last, fields) = await store.xrange(key(P, "events"))
    await store.delete(key(P, "events"))
    await store.xadd(key(P, "events"), fields, id=before)
    await store.xadd(key(P, "events"), fields, id=last)
    assert await subscribed(api, cursor) is None
    await store.delete(key(P, "events"))
    other = {b"e": fields[b"e"].replace(b"other", b"OTHER")}
    await store.xadd(key(P, "events"), other, id=last)
    assert (await refusal(api.subscribe(cursor=cursor).read())).reason == "LOG_CHANGED"
    assert await subscribed(api, without_proof(cursor)) is None  # It can't know.


async def test_what_is_archived_and_trimmed_is_the_same_log(
    small_api: Api, small_server: Server, store: Any
) -> None:
    for n in range(25):
        await small_api.publish(event("k", b"%d" % n))
    cursors = []
    stream = small_api.subscribe()
    while len(stream.events) < 25:
        await stream.read()
        cursors.append(stream.cursor)
    await archive(small_server)
    await store.xtrim(key(P, "events"), maxlen=5, approximate=False)
    await small_api.publish(event("k"))
    for cursor in cursors:
        assert await subscribed(small_api, cursor) is None
        assert await subscribed(small_api, without_proof(cursor)) is None


async def test_a_sequence_is_not_given_twice(api: Api, store: Any) -> None:
    """Not even where the store has lost the event, and its clock is behind."""
    ahead_ms = await now_ms(store) + 3_600_000
    await api.publish(event("k"))
    await store.execute_command("XSETID", key(P, "events"), f"{ahead_ms}-7")
    lost = await api.publish(event("k"), event("k"))
    assert lost == [f"{ahead_ms}-8", f"{ahead_ms}-9"]
    await store.delete(key(P, "events"), key(P, "state"))
    again = await api.publish(event("k"), event("k"), event("k"))
    assert again == [f"{ahead_ms}-{n}" for n in (10, 11, 12)]
    assert await api.publish(event("k")) == [f"{ahead_ms}-13"]


async def now_ms(store: Any) -> int:
    seconds, micros = await store.time()
    return int(seconds * 1_000 + micros // 1_000)

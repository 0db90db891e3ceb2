"""Payloads that name a subject are sealed, and erased payloads are nowhere any more."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from pathlib import Path
from typing import Any

import pytest
from contex.v1 import event_pb2, state_service_pb2
from contex.v1.project_service_pb2 import EraseDataRequest, Retention, SetRetentionRequest
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.key_names import key, vectors_kind
from contex_server.server import Server
from contex_server.tiers.sealer import FRESH_S
from redis.exceptions import ResponseError

from tests.conftest import StartServer
from tests.integration.logs import exported, imported
from tests.integration.support import DEADLINE_S, Api, P, Words, event, eventually, ms, refusal

SECRET = b"anna lives in the yellow house"


@pytest.fixture
def api(small_api: Api) -> Api:
    return small_api


async def erase(api: Api, request_id: str = "r1", project: str = P, **target: str) -> Any:
    request = EraseDataRequest(
        project=project, request_id=request_id, reason="asked to be forgotten", **target
    )
    return await api.projects.EraseData(request, timeout=DEADLINE_S)


def of_anna(key: str = "person", **fields: Any) -> Any:
    return event(
        key,
        b'{"text":"' + SECRET + b'"}',
        description="the yellow house of anna",
        metadata={"subject": "anna"},
        **fields,
    )


async def everything(valkey: EmbeddedValkey, store: Any) -> bytes:
    """All that the store holds, in memory and in its files."""
    with contextlib.suppress(ResponseError):  # one is under way
        await store.execute_command("BGREWRITEAOF")
    async with asyncio.timeout(DEADLINE_S):
        while True:
            info = await store.info("persistence")
            if not info["aof_rewrite_in_progress"] and not info["aof_rewrite_scheduled"]:
                break
            await asyncio.sleep(0.02)
    found = [await store.dump(name) for name in await store.keys("*")]
    files = [
        p.read_bytes()
        for p in Path(valkey.url.removeprefix("unix://")).parent.rglob("*")
        if p.is_file()
    ]
    held = b"\0".join([*filter(None, found), *files])
    assert b"ctx:{" in held  # its files are among what is looked into
    return held


async def test_what_names_a_subject_is_sealed_and_read_as_it_was(
    api: Api, small_server: Server, valkey: EmbeddedValkey, store: Any, tmp_path: Path
) -> None:
    await api.register("reader", "yellow")
    await api.publish(of_anna(), event("other", b'{"text":"green"}'))
    await api.publish(of_anna(), of_anna("second"))
    events = await api.log()
    mine = [e for e in events if e.metadata.get("subject") == "anna"]
    assert len(mine) == 3
    assert all(SECRET in e.payload and "yellow" in e.description for e in mine)
    assert not any(e.sealed for e in events)
    # It is matched like any other,
    stream = await api.listen("reader", after_sequence="0").live()
    assert set(stream.keys) == {"person", "second"}
    assert SECRET in stream.events[0].payload
    await stream.cancel()
    # and lies nowhere in plain.
    assert SECRET not in await everything(valkey, store)
    assert small_server.rooms.projects.archiver is not None
    await small_server.rooms.projects.archiver.archive_all(P)
    assert await api.log() == events
    for path in (tmp_path / "archive").rglob("*.seg"):
        assert SECRET not in path.read_bytes()


@pytest.mark.parametrize("archived", [False, True])
async def test_an_erased_subject(
    api: Api,
    small_server: Server,
    valkey: EmbeddedValkey,
    start_server: StartServer,
    archived: bool,
) -> None:
    await api.register("reader", "yellow")
    await api.publish(of_anna(), event("other", b'{"text":"yellow"}'))
    await api.publish(of_anna(), of_anna("second"), event("second", b'{"text":"bare"}'))
    before = await api.log()
    if archived:
        assert small_server.rooms.projects.archiver is not None
        await small_server.rooms.projects.archiver.archive_all(P)
    other = await start_server(valkey.url, embedder=Words())
    async with Api.of(other) as elsewhere:
        live = await elsewhere.listen("reader", after_sequence="0").live()
        assert live.told == ["MATCHED", "MATCHED", "UPDATED", "MATCHED", "LEFT"]
        answer = await erase(api, subject="anna")
        assert (answer.erased_count, answer.duplicate) == (3, False)
        again = await erase(api, subject="anna")
        assert (again.erased_count, again.sequence, again.duplicate) == (3, answer.sequence, True)
        assert (await erase(api, "r2", subject="anna")).erased_count == 0
        await asyncio.sleep(FRESH_S)
        for reader in (api, elsewhere):
            await check_erased(reader, before, answer.sequence)
            # The same deliveries without the payloads, and then that they are to be forgotten.
            later = await reader.listen("reader", after_sequence="0").live()
            assert later.keys == [*live.keys[:5], "person", "second"]
            assert later.told == [*live.told[:5], "ERASED", "ERASED"]
            erased = [e for e in later.events if e.HasField("erased")]
            assert [e.data_key for e in erased] == ["person", "person", "second"]
            assert not any(e.payload for e in (*erased, *later.events[5:]))
            await later.cancel()
        assert (await live.count(7)).told[5:] == ["ERASED", "ERASED"]
        await live.cancel()
    # The subject may come again, under another key.
    await api.publish(of_anna("back"))
    assert SECRET in (await api.log())[-1].payload
    assert (await erase(api, "r3", subject="anna")).erased_count == 1


async def check_erased(api: Api, before: list[event_pb2.Event], sequence: str) -> None:
    now = await api.log()
    assert now[-1].event_type == "data_erased"
    assert now[-1].sequence == sequence
    assert len(now) == len(before) + 1
    for was, is_now in zip(before, now[:-1], strict=True):
        for field in ("sequence", "event_type", "data_key", "revision", "previous_sequence"):
            assert getattr(was, field) == getattr(is_now, field)
        assert was.metadata == is_now.metadata
        if "subject" not in was.metadata:
            assert was == is_now
            continue
        assert not is_now.payload
        assert not is_now.description
        assert is_now.erased.request_id == "r1"
        assert is_now.erased.reason == "asked to be forgotten"
        assert len(is_now.erased.payload_digest) == 32
        assert abs(is_now.erased.time.ToMilliseconds() - ms(sequence)) < 60_000
    last = before[-1].sequence
    request = state_service_pb2.GetStateRequest(
        project=P, as_of=event_pb2.Position(sequence=last), page_size=100
    )
    data = {d.data_key: d.event for d in (await api.states.GetState(request)).data}
    assert data["person"].HasField("erased")
    assert data["second"].payload == b'{"text":"bare"}'
    history = state_service_pb2.GetHistoryRequest(project=P, data_key="second", page_size=10)
    newest, oldest = (await api.states.GetHistory(history)).revisions
    assert oldest.event.HasField("erased")
    assert not newest.event.HasField("erased")
    assert newest.patch.omitted == state_service_pb2.PATCH_OMITTED_ERASED
    assert not newest.patch.WhichOneof("form")
    blame = state_service_pb2.GetBlameRequest(project=P, data_key="second")
    await api.states.GetBlame(blame, timeout=DEADLINE_S)


async def test_an_erased_data_key_is_nowhere_any_more(
    api: Api, small_server: Server, valkey: EmbeddedValkey, store: Any, tmp_path: Path
) -> None:
    payload = b'{"text":"' + SECRET + b'"}'
    for n in range(4):
        await api.publish(event("k", payload), event(f"other-{n}", b'{"n":1}'), event("k2"))
    await api.publish(of_anna())
    assert small_server.rooms.projects.archiver is not None
    await small_server.rooms.projects.archiver.archive_all(P)
    await api.publish(event("k", payload, description="words of the yellow house"))
    before = await api.log()
    answer = await erase(api, data_key="k")
    assert answer.erased_count == 5
    now = await api.log()
    for was, is_now in zip(before, now[:-1], strict=True):
        if was.data_key != "k":
            assert was == is_now
            continue
        assert (is_now.sequence, is_now.revision) == (was.sequence, was.revision)
        assert not is_now.payload
        assert is_now.erased.payload_digest == hashlib.sha256(payload).digest()
    assert SECRET not in await everything(valkey, store)
    for path in (tmp_path / "archive").rglob("*"):
        assert path.is_dir() or SECRET not in path.read_bytes()
    # What comes later under the key is not concerned.
    await api.publish(event("k", payload))
    newest = (await api.log())[-1]
    assert (newest.payload, newest.revision) == (payload, 6)
    assert newest.previous_sequence == before[-1].sequence
    again = await erase(api, data_key="k")
    assert again.duplicate
    assert (await erase(api, "r2", data_key="k")).erased_count == 1


async def test_exports_and_imports_keep_what_is_sealed_sealed(
    api: Api, valkey: EmbeddedValkey, store: Any
) -> None:
    await api.publish(of_anna(), of_anna("second"))
    await api.publish(event("plain"))
    await api.publish(event("bert", b'"x"', metadata={"subject": "bert"}))
    await erase(api, subject="bert")
    events = await api.log()
    for form in (1, 2, 3):
        data = await exported(api, format=form)
        assert form == 1 or SECRET in data
        assert (await imported(api, data, f"copy-{form}")).imported_count == len(events)
        assert await api.log(f"copy-{form}") == events
    await imported(api, await exported(api), "again", mode=2)
    assert SECRET in (await api.log("again"))[0].payload
    assert SECRET not in await everything(valkey, store)
    await erase(api, "of-the-copy", "copy-1", subject="anna")
    assert not (await api.log("copy-1"))[0].payload
    assert SECRET in (await api.log())[0].payload


async def test_a_vector_that_another_datum_has_too_stays(
    api: Api, store: Any, small_server: Server
) -> None:
    """Vectors are kept by text: numbers that change leave it as it is."""
    await api.publish(event("stock", b'{"pieces":1}', metadata={"subject": "anna"}))
    await api.publish(event("stock", b'{"pieces":2}'))
    await api.publish(event("gone", b'{"note":"of anna"}', metadata={"subject": "anna"}))
    (first, second, gone) = await api.log()
    assert first.text_digest == second.text_digest != gone.text_digest
    vectors = key(P, vectors_kind(await small_server.rooms.storage.store.match.model(P)))
    await eventually(lambda: store.hexists(vectors, gone.text_digest))
    assert (await erase(api, subject="anna")).erased_count == 2
    assert await store.hexists(vectors, second.text_digest)
    assert not await store.hexists(vectors, gone.text_digest)


async def test_what_is_left_of_a_deleted_datum_is_not_taken_for_its_text(word_api: Api) -> None:
    """A deletion has the digest of the text that it deleted, which is there no more."""
    api = word_api
    await api.publish(event("k", b'"gamma delta"', metadata={"subject": "anna"}))
    await api.publish(event("k", b"", tombstone=True))
    await api.register("other", "gamma")
    await erase(api, subject="anna")
    await (await api.listen("other").live()).cancel()
    await api.register("a", "gamma", last_seen_sequence="0")  # Judges the deletion.
    await api.listen("a").live()
    await api.publish(event("k", b'"gamma delta"'))
    stream = await (await api.listen("a").live()).count(1)
    assert [(item.event.data_key, item.event.revision) for item in stream.matched] == [("k", 3)]


async def test_a_legal_hold_forbids_it(api: Api) -> None:
    await api.publish(of_anna())
    await api.projects.SetRetention(
        SetRetentionRequest(project=P, retention=Retention(legal_hold=True))
    )
    for target in ({"subject": "anna"}, {"data_key": "person"}):
        refused = await refusal(erase(api, **target))
        assert refused.reason == "LEGAL_HOLD"
    assert SECRET in (await api.log())[0].payload


async def test_the_master_key(
    start_server: StartServer, valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    async def serve(**settings: Any) -> Api:
        return Api.of(await start_server(valkey.url, embedder=Words(), **settings))

    without = await serve(redis_url=valkey.url, archive_url="none")
    refused = await refusal(without.publish(of_anna()))
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "MASTER_KEY_MISSING")
    await without.publish(event("plain"))
    first = await serve()
    assert (tmp_path / "master.key").stat().st_mode & 0o777 == 0o600
    await first.publish(of_anna())
    other = tmp_path / "other.key"
    other.write_bytes(b"A" * 43 + b"=\n")
    rotated = await serve(master_key_file=other, previous_master_key_file=tmp_path / "master.key")
    assert SECRET in (await rotated.log())[-1].payload
    await rotated.publish(event("b", b'"x"', metadata={"subject": "bert"}))
    lost = await serve(master_key_file=other)
    refused = await refusal(lost.log())
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "KEY_UNAVAILABLE")
    for opened in (without, first, rotated, lost):
        await opened.channel.close()

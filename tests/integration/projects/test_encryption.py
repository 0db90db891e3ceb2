"""Projects that are encrypted as a whole: no payload and no description lies anywhere in plain."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path
from typing import Any

import pytest
from contex.v1.project_service_pb2 import (
    FINDING_KIND_VECTOR,
    DeleteProjectRequest,
    Encryption,
    EraseDataRequest,
    GetProjectRequest,
    SetEncryptionRequest,
    VerifyProjectRequest,
)
from contex_server.kernel.model import Entry
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.key_names import key
from contex_server.projects import rewrapping
from contex_server.server import Server
from contex_server.tiers import sealer

from tests.conftest import StartServer
from tests.integration.logs import exported, imported
from tests.integration.projects.test_compaction import compact, set_retention
from tests.integration.projects.test_erasure import everything
from tests.integration.support import DEADLINE_S, Api, P, Words, event, eventually, refusal

WORD = "chartreuse"
SECRET = b"the chartreuse house of anna"
MASTER = b"m" * 32


@pytest.fixture
def api(small_api: Api) -> Api:
    return small_api


async def encrypt(api: Api, *, enabled: bool = True, project: str = P) -> Encryption:
    request = SetEncryptionRequest(project=project, enabled=enabled)
    answer = await api.projects.SetEncryption(request, timeout=DEADLINE_S)
    found: Encryption = answer.encryption
    return found


async def encryption(api: Api, project: str = P) -> Encryption:
    answer = await api.projects.GetProject(GetProjectRequest(project=project), timeout=DEADLINE_S)
    found: Encryption = answer.encryption
    return found


def secret(key: str = "k", **fields: Any) -> Any:
    fields.setdefault("description", f"described: {WORD}")
    return event(key, b'{"text":"' + SECRET + b'"}', **fields)


async def verified(api: Api, **fields: Any) -> list[Any]:
    """What `VerifyProject` finds, except vectors."""
    request = VerifyProjectRequest(project=P, **fields)
    steps = [step async for step in api.projects.VerifyProject(request, timeout=DEADLINE_S)]
    found = [step.finding for step in steps if step.HasField("finding")]
    return [f for f in found if f.kind != FINDING_KIND_VECTOR]


async def archive(server: Server, project: str = P) -> None:
    assert server.rooms.projects.archiver is not None
    await server.rooms.projects.archiver.archive_all(project)


def archived(tmp_path: Path) -> bytes:
    """All objects of the archive, with their names."""
    files = [path for path in (tmp_path / "archive").rglob("*") if path.is_file()]
    assert files
    return b"\0".join(part for path in files for part in (str(path).encode(), path.read_bytes()))


async def test_no_payload_and_no_description_lies_anywhere_in_plain(
    api: Api, small_server: Server, valkey: EmbeddedValkey, store: Any, tmp_path: Path
) -> None:
    await api.register("reader", "text")
    assert (await encrypt(api)).enabled
    await api.publish(secret(), secret("k2"), event("k3", b'{"text":"%s"}' % SECRET))
    # Descriptions carry over, and change, and stay with deletions and expiring facts.
    for n in range(30):
        await api.publish(event("k", b'{"n":%d,"text":"%s"}' % (n, SECRET)), secret("k2"))
    await api.publish(event("k2", b"", tombstone=True), secret("of", metadata={"subject": "anna"}))
    events = await api.log()
    assert all(SECRET in e.payload for e in events if e.event_type == "data_published")
    assert events[-3].description == f"described: {WORD}"
    stream = await api.listen("reader", after_sequence="0").live()
    assert {"k", "k2", "k3", "of"} <= set(stream.keys)
    await stream.cancel()
    found = await everything(valkey, store)
    assert WORD.encode() not in found
    assert SECRET not in found
    await archive(small_server)
    assert await api.log() == events
    found = archived(tmp_path) + await everything(valkey, store)
    assert WORD.encode() not in found
    assert await verified(api) == []


async def test_it_counts_for_what_is_published_afterwards_on_every_server(
    api: Api, valkey: EmbeddedValkey, store: Any, start_server: StartServer
) -> None:
    other = await start_server(valkey.url, embedder=Words())
    async with Api.of(other) as elsewhere:
        await elsewhere.publish(secret(description="plain"))
        await encrypt(api)
        await elsewhere.publish(event("k", b'{"text":"%s"}' % SECRET))
        plain, sealed = await store.xrange(key(P, "events"))
        assert SECRET in plain[1][b"e"]
        assert SECRET not in sealed[1][b"e"]
        # What was described in plain is described like that again, and that in no plain form.
        assert [e.description for e in await api.log()] == ["plain", "plain"]
        assert b"plain" not in b"".join(await store.hvals(key(P, "descriptions")))
        answer = await encrypt(api, enabled=False)
        assert not answer.enabled
        # Elsewhere it is noticed within a second; until then more is encrypted than has to be.
        await eventually(lambda: _is_off(other))
        await elsewhere.publish(event("k", b'{"text":"%s"}' % SECRET))
        assert SECRET in (await store.xrevrange(key(P, "events"), count=1))[0][1][b"e"]
        assert [e.description for e in await api.log()] == ["plain"] * 3
    records = [fields.get(b"x", b"") for _, fields in await store.xrange(key(P, "audit"))]
    changes = [record for record in records if b"encryption" in record]
    assert [b"turned encryption on" in change for change in changes] == [True, False]


async def test_a_key_is_replaced_long_before_it_has_sealed_too_much(
    api: Api, start_server: StartServer, valkey: EmbeddedValkey, store: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(sealer, "_SHARE", 10)
    monkeypatch.setattr(sealer, "KEY_EVENTS", 30)
    await encrypt(api)
    other = await start_server(valkey.url, embedder=Words())
    async with Api.of(other) as elsewhere:
        for _ in range(20):
            await asyncio.gather(api.publish(secret(), secret()), elsewhere.publish(secret()))
    used: dict[bytes, int] = {}
    for sequence, fields in await store.xrange(key(P, "events")):
        key_id = sealer.key_id_of(Entry(sequence, fields[b"e"]))
        used[key_id] = used.get(key_id, 0) + 1
    stored = await store.hgetall(key(P, "subjects"))
    assert all(b"k:" + key_id in stored for key_id in used)
    assert len(used) >= 2
    assert max(used.values()) <= 30
    # Old age replaces it, too.
    id_before, given, _ = stored[b"p"].split()
    await store.hset(key(P, "subjects"), "p", b"%s %s 1" % (id_before, given))
    other.rooms.storage.sealer.forget(P)
    async with Api.of(other) as elsewhere:
        await elsewhere.publish(secret())
        assert (await store.hget(key(P, "subjects"), "p")).split()[0] != id_before
        assert all(SECRET in e.payload for e in await elsewhere.log())


async def test_what_is_sealed_for_a_project_that_was_deleted_is_refused(
    api: Api, valkey: EmbeddedValkey, store: Any, start_server: StartServer
) -> None:
    """Its key went with it: nobody could ever read such an event."""
    await encrypt(api)
    await api.publish(secret())
    old = await store.xrange(key(P, "events"))
    request = DeleteProjectRequest(project=P, request_id="d", reason="over")
    other = await start_server(valkey.url, embedder=Words())
    async with Api.of(other) as elsewhere:
        await elsewhere.publish(secret())
        storage = other.rooms.storage
        known = storage.encryption._known, storage.sealer._shares
        storage.encryption.forget = lambda _: None  # type: ignore[method-assign]
        forget, storage.sealer.forget = storage.sealer.forget, lambda _: None  # type: ignore[method-assign]
        await api.projects.DeleteProject(request, timeout=DEADLINE_S)
        assert not await store.exists(key(P, "subjects"))
        assert not (await encryption(api)).enabled
        await api.publish(event("fresh", b"1"))
        assert known[0][P]
        storage.sealer.forget = forget  # type: ignore[method-assign]
        assert (await refusal(elsewhere.publish(secret()))).reason == "OVERLOADED"
    assert [e.data_key for e in await api.log()] == ["fresh"]
    assert old


async def test_a_data_key_is_erased(
    api: Api, small_server: Server, valkey: EmbeddedValkey, store: Any, tmp_path: Path
) -> None:
    await encrypt(api)
    await api.publish(secret("gone"), secret("stays"))
    request = EraseDataRequest(project=P, request_id="r", reason="asked", data_key="gone")
    assert (await api.projects.EraseData(request, timeout=DEADLINE_S)).erased_count == 1
    gone, stays, _ = await api.log()
    assert not gone.payload
    assert gone.erased.request_id == "r"
    assert SECRET in stays.payload
    assert SECRET not in archived(tmp_path) + await everything(valkey, store)


async def test_superseded_revisions_are_compacted(
    api: Api, small_server: Server, valkey: EmbeddedValkey, store: Any, tmp_path: Path
) -> None:
    await encrypt(api)
    await set_retention(api, keep_revisions=1)
    for _ in range(25):
        await api.publish(secret())
    await archive(small_server)
    await compact(small_server)
    *before, latest = await api.log()
    assert [bool(e.payload) for e in before] == [False] * 24
    assert SECRET in latest.payload
    assert await verified(api) == []
    assert SECRET not in archived(tmp_path) + await everything(valkey, store)


async def test_an_import_into_an_encrypted_project(
    api: Api, small_server: Server, valkey: EmbeddedValkey, store: Any, tmp_path: Path
) -> None:
    await api.publish(*(secret(f"k{n}") for n in range(40)), project="from")
    before = await api.log("from")
    data = await exported(api, project="from")
    for project in ("empty", "replayed"):
        await encrypt(api, project=project)
    await imported(api, data, project="empty")
    assert await api.log("empty") == before
    assert (await encryption(api, "empty")).enabled
    await api.publish(secret("later"), project="empty")
    assert SECRET in (await api.log("empty"))[-1].payload
    for name in await store.keys("*p:empty:*"):
        assert SECRET not in (await store.dump(name) or b"")
        assert WORD.encode() not in (await store.dump(name) or b"")


async def test_a_project_that_is_restored_from_its_archive_stays_encrypted(
    api: Api, small_server: Server, valkey: EmbeddedValkey, store: Any, start_server: StartServer
) -> None:
    await encrypt(api)
    await api.publish(*(secret(f"k{n}") for n in range(15)))
    before = await api.log()
    await archive(small_server)
    await small_server.stop()
    await store.flushall()
    again = await start_server(valkey.url, embedder=Words(), segment_events=10)
    async with Api.of(again) as api:
        await verified(api, repair=True)
        assert await api.log() == before
        assert (await encryption(api)).enabled
        await api.publish(secret("later"))
        assert SECRET not in (await store.xrevrange(key(P, "events"), count=1))[0][1][b"e"]


async def test_without_a_master_key_nothing_is_stored_in_plain(
    api: Api, valkey: EmbeddedValkey, start_server: StartServer, store: Any
) -> None:
    await encrypt(api)
    bare = await start_server(
        valkey.url, embedder=Words(), redis_url=valkey.url, archive_url="none"
    )
    async with Api.of(bare) as elsewhere:
        assert (await refusal(elsewhere.publish(secret()))).reason == "MASTER_KEY_MISSING"
        assert (await refusal(encrypt(elsewhere))).reason == "MASTER_KEY_MISSING"
        assert (await encryption(elsewhere)).master_key_id == ""
    assert not await store.exists(key(P, "events"))


async def test_keys_are_wrapped_anew_after_a_rotation(
    valkey: EmbeddedValkey,
    start_server: StartServer,
    store: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rewrapping, "_LOOK_S", 0.02)
    monkeypatch.setattr(rewrapping, "_KEYS", 3)
    old, new = tmp_path / "old.key", tmp_path / "new.key"
    for path in (old, new):
        path.write_bytes(base64.b64encode(os.urandom(32)))
    settings: dict[str, Any] = {"embedder": Words(), "segment_events": 10}
    first = await start_server(valkey.url, master_key_file=old, **settings)
    async with Api.of(first) as api:
        await encrypt(api)
        for n in range(12):
            await api.publish(secret(f"k{n}"), secret("p", metadata={"subject": f"s{n}"}))
        await archive(first)
        await api.publish(secret("later", metadata={"subject": "late"}))
        request = EraseDataRequest(project=P, request_id="r", reason="asked", subject="s3")
        await api.projects.EraseData(request, timeout=DEADLINE_S)
        before = await api.log()
        # While another process wraps with the other key, nothing is changed.
        second = await start_server(
            valkey.url, master_key_file=new, previous_master_key_file=old, **settings
        )
        async with Api.of(second) as elsewhere:
            assert await elsewhere.log() == before
            seen = await encryption(elsewhere)
            assert seen.keys_to_rewrap == 13
            assert seen.master_key_id != (await encryption(api)).master_key_id
            await first.stop()
            await eventually(lambda: _all_done(elsewhere))
            assert await elsewhere.log() == before
            await eventually(lambda: store.get("ctx:{0}:rotated"))
            assert await store.get("ctx:{0}:rotated") == seen.master_key_id.encode()
            await second.stop()
    third = await start_server(valkey.url, master_key_file=new, **settings)
    async with Api.of(third) as api:
        assert await api.log() == before
        assert sum(bool(e.erased.request_id) for e in before) == 1
        await third.stop()
    # What is in the archive can be read with the new key alone, too.
    await store.flushall()
    fourth = await start_server(valkey.url, master_key_file=new, **settings)
    async with Api.of(fourth) as api:
        await verified(api, repair=True)
        assert (await api.log()) == before[: len(await api.log())]
        assert len(await api.log()) >= 20


async def _is_off(server: Server) -> bool:
    return not await server.rooms.storage.encryption.holds(P)


async def _all_done(api: Api) -> bool:
    return (await encryption(api)).keys_to_rewrap == 0

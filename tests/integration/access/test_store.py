"""Keys and rights while the store is away, full, replaced, or damaged."""

from __future__ import annotations

import asyncio

import pytest
from contex.v1 import access_service_pb2 as pb
from contex_server.log.access import ACCESS
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.key_names import key
from redis.asyncio import Redis

from tests.conftest import StartServer
from tests.integration.access.support import Deployment, grant
from tests.integration.support import DEADLINE_S, event, refusal

RECORDS = key(ACCESS, "access")


async def damage(valkey: EmbeddedValkey, name: str, content: bytes) -> None:
    """Another content of a record, which every server hears of."""
    async with Redis.from_url(valkey.url) as client:
        version = await client.incr(key(ACCESS, "version"))
        await client.hset(RECORDS, name, content)
        await client.zadd(key(ACCESS, "changes"), {name: version})


@pytest.mark.parametrize(
    "content", [b"\xff", b"{}", b"[]", b"null", b'{"name": "acme", "projects": "*"}']
)
async def test_a_damaged_tenant_keeps_its_projects(
    deployment: Deployment, start_server: StartServer, valkey: EmbeddedValkey, content: bytes
) -> None:
    await deployment.tenant("acme", "acme-*")
    rest = await deployment.caller("rest", grant("admin"), tenant="default")
    acme = await deployment.caller("acme/one", grant("admin"), tenant="acme")
    await acme.publish(event("a"), project="acme-shop")
    await rest.publish(event("a"), project="other")
    await damage(valkey, "tenant/acme", content)
    directory = deployment.server.rooms.access.directory
    await directory.refresh()
    # A server that knew it goes on.
    assert await acme.page("acme-shop")
    assert (await refusal(rest.page("acme-shop"))).reason == "PERMISSION_DENIED"
    assert await rest.page("other")
    # Other changes hold, of keys above all.
    issued = await deployment.key("late", grant("readonly"))
    late = deployment.with_key(issued.secret_key)
    assert await late.page("other")
    request = pb.RevokeKeyRequest(key_id=issued.key.key_id)
    await deployment.admin.access.RevokeKey(request, timeout=DEADLINE_S)
    assert (await refusal(late.page("other"))).metadata["cause"] == "REVOKED"
    # One that starts does not know which projects are whose.
    server = await start_server(valkey.url, access=True)
    policy = server.rooms.access.directory.policy
    assert (policy.tenant_of("acme-shop").name, policy.tenant_of("other").name) == ("", "")
    # It is mended by setting it again.
    await deployment.tenant("acme", "acme-*")
    await server.rooms.access.directory.refresh()
    policy = server.rooms.access.directory.policy
    names = policy.tenant_of("acme-shop").name, policy.tenant_of("other").name
    assert names == ("acme", "default")


async def test_what_is_damaged_allows_nothing(
    deployment: Deployment, valkey: EmbeddedValkey
) -> None:
    issued = await deployment.key("reader", grant("readonly"))
    reader = deployment.with_key(issued.secret_key)
    await deployment.admin.publish(event("a"))
    directory = deployment.server.rooms.access.directory
    binding, own = "binding/reader", f"key/{issued.key.key_id}"
    stored = {name: directory.stored(name) for name in (binding, own)}
    wider = stored[binding].replace(b'["*"]', b'"*"').replace(b"reader", b"other")
    for name, content, reason in (
        (binding, wider, "PERMISSION_DENIED"),
        (binding, stored[binding].replace(b'["*"]', b'"shop*"'), "PERMISSION_DENIED"),
        (binding, stored[binding][:-1] + b',"later":1}', "PERMISSION_DENIED"),
        (binding, stored[binding].replace(b"null", b"7"), "PERMISSION_DENIED"),
        (own, stored[own].replace(b'"revoked_ms":0', b'"revoked_ms":"0"'), "UNAUTHENTICATED"),
        (own, stored[own].replace(b'"expires_ms":0', b'"expires_ms":null'), "UNAUTHENTICATED"),
        (own, stored[own].replace(b'"digest":"', b'"digest":"0'), "UNAUTHENTICATED"),
    ):
        assert content != stored[name]
        await damage(valkey, name, content)
        await directory.refresh()
        assert (await refusal(reader.page())).reason == reason, content
        await damage(valkey, name, stored[name])
        await directory.refresh()
        assert await reader.page()
    await damage(valkey, "role/mine", b'{"name":"mine","permissions":"all","description":""}')
    await damage(valkey, "new/kind", b"{}")
    await damage(valkey, "\xff".encode("latin-1").decode("latin-1"), b"{}")
    await directory.refresh()
    assert await reader.page()
    roles = (await deployment.admin.access.ListRoles(pb.ListRolesRequest())).roles
    assert all(role.built_in for role in roles)


@pytest.mark.own_store
async def test_keys_hold_while_the_store_is_away_or_full(
    deployment: Deployment, valkey: EmbeddedValkey
) -> None:
    issued = await deployment.key("reader", grant("readonly"), grant("publisher"))
    reader = deployment.with_key(issued.secret_key)
    await reader.publish(event("a"))
    async with Redis.from_url(valkey.url) as client:
        await client.config_set("maxmemory", 1)
        assert (await refusal(reader.publish(event("b")))).reason == "STORE_FULL"
        # What takes rights away is possible then, too.
        request = pb.RevokeKeyRequest(key_id=issued.key.key_id)
        await deployment.admin.access.RevokeKey(request, timeout=DEADLINE_S)
        assert (await refusal(reader.page())).metadata["cause"] == "REVOKED"
        await client.config_set("maxmemory", 0)
    issued = await deployment.key("reader", grant("readonly"))
    reader = deployment.with_key(issued.secret_key)
    assert await reader.page()
    await valkey.stop()
    forged = deployment.with_key(issued.secret_key[:-2] + "zz")
    assert (await refusal(forged.page())).reason == "UNAUTHENTICATED"
    assert (await refusal(reader.publish(event("b")))).reason == "PERMISSION_DENIED"
    request = pb.RevokeKeyRequest(key_id=issued.key.key_id)
    refused = await refusal(deployment.admin.access.RevokeKey(request, timeout=DEADLINE_S))
    assert refused.reason == "STORE_UNAVAILABLE"
    await valkey.start()
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await deployment.admin.access.RevokeKey(request, timeout=DEADLINE_S)
                break
            except Exception:
                await asyncio.sleep(0.1)
    assert (await refusal(reader.page())).metadata["cause"] == "REVOKED"


async def test_a_store_that_came_back_older_counts(
    deployment: Deployment, valkey: EmbeddedValkey
) -> None:
    async with Redis.from_url(valkey.url) as client:
        names = [key(ACCESS, kind) for kind in ("access", "changes", "version")]
        before = [await client.dump(name) for name in names]
        issued = await deployment.key("lost", grant("readonly"))
        lost = deployment.with_key(issued.secret_key)
        await deployment.admin.publish(event("a"))
        assert await lost.page()
        for name, content in zip(names, before, strict=True):
            await client.restore(name, 0, content, replace=True)
    await deployment.server.rooms.access.directory.refresh()
    assert (await refusal(lost.page())).reason == "UNAUTHENTICATED"
    assert await deployment.admin.page()

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import contex
import grpc
import pytest
from contex.v1 import access_pb2

from tests import access_service
from tests.access_service import ADMIN_KEY, SECRET, Access, Agents

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
Served = tuple[str, Access, Agents]


@pytest.fixture
def served() -> Iterator[Served]:
    with access_service.serving() as served:
        yield served


async def test_what_is_set_is_what_there_is(served: Served) -> None:
    grants = [contex.Grant("publisher", ("shop",), ("billing/*",))]
    async with contex.AsyncClient(served[0], api_key=ADMIN_KEY) as client:
        access = client.access
        me = await access.who_am_i()
        assert (me.identity, me.key_id, me.expire_time) == ("root", "adminadmin00", None)
        assert me.credential is contex.Credential.API_KEY
        limits = contex.UsageLimits(events_per_second=1000, stored_bytes=1 << 30)
        tenant = await access.set_tenant("acme", ["acme-*"], limits=limits)
        assert (tenant.limits, tenant.project_limits) == (limits, None)
        assert [tenant.name for tenant in await access.tenants()] == ["default", "acme"]
        role = await access.set_role("curator", ["publish", contex.Permission.STATE])
        assert role.permissions == (contex.Permission.PUBLISH, contex.Permission.STATE)
        assert [role.built_in for role in await access.roles()] == [True, False]
        await access.set_binding("billing", grants, tenant="acme")
        assert [b.grants async for b in access.bindings()] == [tuple(grants)]
        with pytest.raises(contex.AccessInUse) as in_use:
            await access.delete_role("publisher")
        assert (in_use.value.kind, in_use.value.used_by) == ("role", "billing")
        await access.delete_role("curator")
        await access.delete_binding("billing")
        with pytest.raises(contex.AccessNotFound) as missing:
            await access.delete_binding("billing")
        assert (missing.value.kind, missing.value.name) == ("binding", "billing")
        await access.delete_tenant("acme")
        assert await client.assign_agents("shop", "bill*", "billing", reassign=True) == 3
        report = await access.usage("acme")
        assert [u.name for u in report.usage] == ["events_per_second", "stored_bytes", "agents"]
        assert report.usage[0].refused == 3
        assert (await access.usage(project="shop")).project == "shop"


def test_keys_come_and_go(served: Served) -> None:
    with contex.Client(served[0], api_key=ADMIN_KEY) as client:
        grants = [contex.Grant("publisher", ("shop",))]
        created = client.access.create_key("billing", ttl=timedelta(days=1), grants=grants)
        assert served[1].requests[-1].ttl.seconds == 86_400
        assert created.secret_key.endswith(SECRET)
        rotated = client.access.rotate_key(created.key.key_id, overlap=60)
        assert rotated.key.replaces_key_id == rotated.replaced.key_id == created.key.key_id
        for value in (created, rotated, client, client.access, client._credentials):
            assert SECRET not in repr(value) + str(value)
            assert ADMIN_KEY not in repr(value) + str(value)
        keys = [key.key_id for key in client.access.keys("billing", page_size=1)]
        assert keys == [created.key.key_id, rotated.key.key_id]
        assert client.access.revoke_key(keys[0]).revoke_time is not None
        with pytest.raises(contex.AccessNotFound):
            client.access.revoke_key("another")


def test_a_decision_is_true_where_it_is_allowed(served: Served) -> None:
    with contex.Client(served[0], api_key=ADMIN_KEY) as client:
        client.access.set_binding("b", [contex.Grant("publisher", ("shop",), ("x/*",))])
        allowed = client.access.can("publish", "shop", data_key="x/1", identity="b")
        assert allowed
        assert allowed.data_keys == ("x/*",)
        assert served[1].requests[-1].permission == access_pb2.PERMISSION_PUBLISH
        denied = client.access.can("GetState", "shop", identity="b", groups=["group:i:g"])
        assert not denied
        assert served[1].requests[-1].method == "GetState"
        assert denied.grants[0].problem
        for question in (contex.Permission.READ, "read"):
            client.access.can(question, "shop")
            assert served[1].requests[-1].permission == access_pb2.PERMISSION_READ


async def test_credentials_are_sent_with_every_call(served: Served) -> None:
    target, access, agents = served
    tokens = iter(["ctx_one_x", "ctx_two_x", "ctx_three_x", "ctx_four_x"])
    async with contex.AsyncClient(target, token=lambda: next(tokens), publisher="me") as client:
        assert await client.health() == "SERVING"
        await client.access.who_am_i()
        agents.ends = [(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", "")]
        with pytest.raises(contex.PermissionDenied):
            async for _ in client.listen("shop", "a"):
                pass
    assert access.authorizations == ["Bearer ctx_two_x", "Bearer ctx_three_x"]


async def test_a_stream_goes_on_where_access_changed(served: Served) -> None:
    target, _, agents = served
    agents.ends = [(UNAVAILABLE, "ACCESS_CHANGED", "")] * 2
    agents.ends += [(UNAUTHENTICATED, "UNAUTHENTICATED", "EXPIRED")]
    agents.ends += [(UNAUTHENTICATED, "UNAUTHENTICATED", "REVOKED")]
    async with contex.AsyncClient(target, api_key=ADMIN_KEY) as client:
        got = []
        with pytest.raises(contex.Unauthenticated) as ended:
            async for matched in client.listen("shop", "a"):
                got.append(matched.event.sequence)
    assert ended.value.cause == "REVOKED"
    assert got == ["1-0", "2-0", "3-0", "4-0"]
    assert agents.cursors == ["", "c1", "c2", "c3"]


async def test_expired_credentials_are_tried_once_more_only(served: Served) -> None:
    target, access, agents = served
    access.refusals = [(UNAUTHENTICATED, "UNAUTHENTICATED", None)] * 3
    async with contex.AsyncClient(target, api_key=ADMIN_KEY) as client:
        with pytest.raises(contex.Unauthenticated):
            async for _ in client.listen("shop", "a"):
                pass
    assert agents.cursors == []
    assert len(access.refusals) == 2


@pytest.mark.parametrize("cause", ["REVOKED", "EXPIRED", "INVALID"])
async def test_a_stream_goes_on_with_the_key_that_is_in_the_file_now(
    served: Served, tmp_path: Path, cause: str
) -> None:
    target, access, agents = served
    file = tmp_path / "key"
    file.write_text("ctx_key1_x\n")
    numbers = iter(range(2, 9))
    agents.before_end = lambda: file.write_text(f"ctx_key{next(numbers)}_x\n")
    agents.ends = [(UNAUTHENTICATED, "UNAUTHENTICATED", cause)] * 2
    agents.ends += [(UNAVAILABLE, "", ""), (UNAUTHENTICATED, "UNAUTHENTICATED", cause)]
    async with (
        contex.AsyncClient(target, api_key_file=file) as client,
        client.listen("shop", "a") as stream,
    ):
        got = [(await anext(stream)).event.sequence for _ in range(5)]
    assert got == ["1-0", "2-0", "3-0", "4-0", "5-0"]
    assert agents.cursors == ["", "c1", "c2", "c3", "c4"]
    keys = [sent.removeprefix("Bearer ctx_key") for sent in access.authorizations]
    assert keys == ["1_x", "2_x", "3_x", "3_x", "5_x"]


async def test_a_stream_is_refused_with_the_same_key_or_with_another_at_once(
    served: Served, tmp_path: Path
) -> None:
    target, access, agents = served
    file = tmp_path / "key"
    file.write_text("ctx_key1_x")
    agents.ends = [(UNAUTHENTICATED, "UNAUTHENTICATED", "REVOKED")] * 2
    async with contex.AsyncClient(target, api_key_file=file) as client:
        with pytest.raises(contex.Unauthenticated):
            [_ async for _ in client.listen("shop", "a")]
        assert agents.cursors == [""]
        access.revoked = {"ctx_key2_x"}
        agents.before_end = lambda: file.write_text("ctx_key2_x")
        with pytest.raises(contex.Unauthenticated) as raised:
            [_ async for _ in client.listen("shop", "a")]
        assert raised.value.cause == "REVOKED"
        assert agents.cursors == ["", ""]
        assert len(access.authorizations) == 3


def test_a_call_is_made_again_with_the_key_that_is_in_the_file_now(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, access, agents = served
    file = tmp_path / "key"
    file.write_text("ctx_key1_x")
    monkeypatch.setenv("CONTEX_API_KEY_FILE", str(file))
    with contex.Client(target) as client:
        assert client.access.who_am_i().key_id == "key1"
        access.revoked = {"ctx_key1_x"}
        with pytest.raises(contex.Unauthenticated) as refused:
            client.access.who_am_i()
        assert refused.value.cause == "REVOKED"
        assert len(access.requests) == 2
        file.write_text("ctx_key2_x")
        assert client.access.who_am_i().key_id == "key2"
        file.write_text("")
        access.revoked = {"ctx_key2_x"}
        with pytest.raises(contex.Unauthenticated):
            client.access.who_am_i()
        agents.ends = [(UNAUTHENTICATED, "UNAUTHENTICATED", "REVOKED")]
        file.write_text("ctx_key3_x")
        agents.before_end = lambda: file.write_text("ctx_key4_x")
        with client.listen("shop", "a") as stream:
            assert [next(stream).event.sequence for _ in range(2)] == ["1-0", "2-0"]
        assert [sent[-6:] for sent in access.authorizations[-3:]] == ["key2_x", "key3_x", "key4_x"]
    with (
        contex.Client(target, api_key="ctx_key1_x") as client,
        pytest.raises(contex.Unauthenticated),
    ):
        access.revoked = {"ctx_key1_x"}
        client.access.who_am_i()


@pytest.mark.parametrize("call", ["who_am_i", "revoke"])
def test_a_rate_is_waited_for_within_the_timeout(served: Served, call: str) -> None:
    target, access, _ = served
    access.refusals = [(EXHAUSTED, "QUOTA_EXCEEDED", 30)] * 2
    with contex.Client(target, api_key=ADMIN_KEY, timeout=5) as client:
        if call == "who_am_i":
            assert client.access.who_am_i().identity == "root"
        else:
            with pytest.raises(contex.AccessNotFound):
                client.access.revoke_key("k")
    assert len(access.requests) == 3


@pytest.mark.parametrize("call", ["who_am_i", "revoke"])
@pytest.mark.parametrize("retry_ms", [None, 60_000])
def test_other_limits_are_not_waited_for(served: Served, call: str, retry_ms: int | None) -> None:
    target, access, _ = served
    access.refusals = [(EXHAUSTED, "QUOTA_EXCEEDED", retry_ms)]
    with (
        contex.Client(target, api_key=ADMIN_KEY) as client,
        pytest.raises(contex.QuotaExceeded) as refused,
    ):
        client.access.who_am_i() if call == "who_am_i" else client.access.revoke_key("k")
    assert refused.value.limit == "read_calls_per_second"
    assert len(access.requests) == 1


def test_without_credentials_it_is_said_what_is_missing(served: Served) -> None:
    with (
        contex.Client(served[0], api_key="") as client,
        pytest.raises(contex.Unauthenticated) as refused,
    ):
        client.access.who_am_i()
    assert refused.value.cause == "MISSING"

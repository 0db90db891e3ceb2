"""Nobody gives away more than they have, however they ask, and however many at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from contex.v1 import access_pb2
from contex.v1 import access_service_pb2 as pb
from contex.v1.project_service_pb2 import ListProjectsRequest
from contex_server.access.records import Tenant

from tests.integration.access.support import Caller, Deployment, grant
from tests.integration.support import DEADLINE_S, P, Refusal, event, refusal

ACME = "acme"


async def ask(caller: Caller, rpc: str, **fields: Any) -> Any:
    request = getattr(pb, f"{rpc}Request")(**fields)
    return await getattr(caller.access, rpc)(request, timeout=DEADLINE_S)


async def refused(caller: Caller, rpc: str, **fields: Any) -> Refusal:
    return await refusal(ask(caller, rpc, **fields))


def binding(identity: str, *grants: pb.Grant, tenant: str = ACME) -> pb.Binding:
    return pb.Binding(identity=identity, tenant=tenant, grants=grants)


async def records(deployment: Deployment) -> tuple[bytes, ...]:
    """All records, as they are listed."""
    admin = deployment.admin
    listed = [
        await ask(admin, "ListKeys", page_size=1_000),
        await ask(admin, "ListBindings", page_size=1_000),
        await ask(admin, "ListTenants"),
        await ask(admin, "ListRoles"),
    ]
    for key in listed[0].keys:
        key.ClearField("last_use_time")
    return tuple(answer.SerializeToString(deterministic=True) for answer in listed)


@pytest.fixture
async def acme(deployment: Deployment) -> Caller:
    """The administrator of a tenant, beside another one."""
    await deployment.tenant("acme", "acme-*")
    await deployment.tenant("rival", "rival-*")
    await deployment.key("rival/one", grant("admin"), tenant="rival")
    await deployment.key("ops")  # Of the deployment, and bound to nothing.
    return await deployment.caller("acme/root", grant("admin"), tenant=ACME)


async def test_an_administrator_of_a_tenant_stays_in_it(
    deployment: Deployment, acme: Caller
) -> None:
    (rival,) = (await ask(deployment.admin, "ListKeys", tenant="rival")).keys
    (ops,) = (await ask(deployment.admin, "ListKeys", identity="ops")).keys
    (first,) = (await ask(deployment.admin, "ListKeys", identity="admin")).keys
    everything = grant("admin")
    before = await records(deployment)
    for identity in (
        *("rival/one", "rival/new", "admin", "ops", "new", "acme", "acme/", "/acme/x", "Acme/x"),
        *("acme\uff0fx", "\u0430cme/x", "acme-/x", "acme//../rival/one", "default/x"),
    ):
        for tenant in (ACME, "", "rival", "default", "nothing"):
            inside = identity == "acme//../rival/one" and tenant in (ACME, "")
            for rpc, fields in (
                ("CreateKey", {"identity": identity, "tenant": tenant}),
                ("CreateKey", {"identity": identity, "tenant": tenant, "grants": [everything]}),
                ("SetBinding", {"binding": binding(identity, everything, tenant=tenant)}),
            ):
                if inside:
                    continue  # An odd name, and within the tenant.
                answer = await refused(acme, rpc, **fields)
                assert answer.reason in ("PERMISSION_DENIED", "INVALID_FIELD"), (identity, tenant)
    for name in ("group:corp:all", "cert:acme/x", "corp:acme/x"):
        answer = await refused(acme, "SetBinding", binding=binding(name, everything))
        assert answer.reason == "PERMISSION_DENIED"
    for key in (rival, ops, first):
        for rpc in ("RotateKey", "RevokeKey"):
            assert (await refused(acme, rpc, key_id=key.key_id)).reason == "ACCESS_NOT_FOUND"
    for identity in ("rival/one", "admin", "nobody"):
        answer = await refused(acme, "DeleteBinding", identity=identity)
        assert answer.reason == "ACCESS_NOT_FOUND"
    role = pb.Role(name="mine", permissions=[access_pb2.PERMISSION_READ])
    for rpc, fields in (
        ("SetRole", {"role": role}),
        ("DeleteRole", {"name": "mine"}),
        ("SetTenant", {"tenant": pb.Tenant(name=ACME, projects=["*"])}),
        ("SetTenant", {"tenant": pb.Tenant(name="other", projects=["rival-*"])}),
        ("DeleteTenant", {"name": "rival"}),
        ("GetUsage", {"tenant": "rival"}),
        ("GetUsage", {"tenant": "default"}),
        ("GetUsage", {"project": "rival-shop"}),
    ):
        assert (await refused(acme, rpc, **fields)).reason == "PERMISSION_DENIED", rpc
    assert await records(deployment) == before
    # What it sees is its own.
    assert {key.tenant for key in (await ask(acme, "ListKeys")).keys} == {ACME}
    assert not (await ask(acme, "ListKeys", tenant="rival")).keys
    assert not (await ask(acme, "ListKeys", identity="rival/one")).keys
    assert {b.tenant for b in (await ask(acme, "ListBindings")).bindings} == {ACME}
    assert [tenant.name for tenant in (await ask(acme, "ListTenants")).tenants] == [ACME]
    # A grant for all projects is one for the tenant's.
    everywhere = await ask(acme, "CreateKey", identity="acme/all", grants=[everything])
    caller = deployment.with_key(everywhere.secret_key)
    assert (await refusal(caller.publish(event("a"), project="rival-shop"))).reason == (
        "PERMISSION_DENIED"
    )


async def test_the_administrator_of_the_rest_takes_no_identity_of_the_deployment(
    deployment: Deployment, acme: Caller
) -> None:
    rest = await deployment.caller("rest", grant("admin"), tenant="default")
    before = await records(deployment)
    for identity in ("admin", "ops"):
        for fields in ({}, {"grants": [grant("readonly")]}):
            answer = await refused(rest, "CreateKey", identity=identity, tenant="default", **fields)
            assert answer.reason == "PERMISSION_DENIED"
        answer = await refused(rest, "SetBinding", binding=binding(identity, tenant="default"))
        assert answer.reason == "PERMISSION_DENIED"
    assert await records(deployment) == before
    made = await ask(rest, "CreateKey", identity="mine", grants=[grant("admin")])
    assert made.key.tenant == "default"


async def test_who_administers_with_few_rights_gets_no_others(
    deployment: Deployment, acme: Caller
) -> None:
    keeper = pb.Role(name="keeper", permissions=[access_pb2.PERMISSION_ADMINISTER])
    await ask(deployment.admin, "SetRole", role=keeper)
    strong = await deployment.key("acme/strong", grant("admin"), tenant=ACME)
    for identity, tenant in (("keeper", ""), ("acme/keeper", ACME)):
        caller = await deployment.caller(identity, grant("keeper"), tenant=tenant)
        for role in ("readonly", "admin", "operator"):
            given = binding(identity, grant(role), tenant=tenant)
            answer = await refused(caller, "SetBinding", binding=given)
            assert answer.reason == "PERMISSION_DENIED"
        # A key of who may do more.
        answer = await refused(caller, "CreateKey", identity="acme/strong", tenant=ACME)
        assert answer.reason == "PERMISSION_DENIED"
        answer = await refused(caller, "RotateKey", key_id=strong.key.key_id)
        assert answer.reason == "PERMISSION_DENIED"
        # More for its own role.
        wider = pb.Role(name="keeper", permissions=[access_pb2.PERMISSION_READ])
        answer = await refused(caller, "SetRole", role=wider)
        assert answer.reason == "PERMISSION_DENIED"
        assert (await refusal(caller.page("acme-shop"))).reason == "PERMISSION_DENIED"


async def test_what_others_may_is_told_to_who_administers_them(
    deployment: Deployment, acme: Caller
) -> None:
    await deployment.bind("group:corp:rivals", grant("admin", project="rival-*"), tenant="rival")
    about: dict[str, Any] = {"permission": access_pb2.PERMISSION_READ, "project": "rival-shop"}
    for fields in (
        {"identity": "acme/root", "groups": ["group:corp:rivals"]},
        {"groups": ["group:corp:rivals"]},
        {"identity": "rival/one"},
        {"identity": "admin"},
        {"identity": "nobody"},
    ):
        answer = await refused(acme, "CheckAccess", **fields, **about)
        assert answer.reason == "ACCESS_NOT_FOUND", fields
    said = await ask(deployment.admin, "CheckAccess", groups=["group:corp:rivals"], **about)
    assert {decision.identity for decision in said.grants} == {"admin", "group:corp:rivals"}
    plain = await deployment.caller("acme/plain", grant("readonly"), tenant=ACME)
    for rpc in ("ListKeys", "ListBindings", "ListTenants"):
        assert (await refused(plain, rpc)).reason == "PERMISSION_DENIED"
    for fields in ({"identity": "nobody"}, {"identity": "acme/root"}):
        assert (await refused(plain, "ListKeys", **fields)).reason == "PERMISSION_DENIED"


async def test_projects_that_are_listed_are_those_with_some_right(
    deployment: Deployment, acme: Caller
) -> None:
    for project in ("acme-lab", "acme-shop", "rival-shop", P):
        await deployment.admin.publish(event("billing/a"), project=project)

    async def listed(caller: Caller, **fields: Any) -> list[tuple[str, int]]:
        request = ListProjectsRequest(**fields)
        answer = await caller.projects.ListProjects(request, timeout=DEADLINE_S)
        return [(each.project, each.event_count) for each in answer.projects]

    assert await listed(acme) == [("acme-lab", 1), ("acme-shop", 1)]
    assert await listed(acme, name="rival*") == []
    some = await deployment.caller(
        "acme/some", grant("readonly", "billing/*", project="acme-shop"), tenant=ACME
    )
    assert await listed(some) == [("acme-shop", 0)]
    assert len(await listed(deployment.admin)) == 4


async def test_no_client_names_the_project_of_access(deployment: Deployment) -> None:
    for call in (
        deployment.admin.publish(event("a"), project="~access"),
        deployment.admin.page("~access"),
        deployment.admin.register("a", "b", project="~access"),
    ):
        assert (await refusal(call)).reason == "INVALID_FIELD"


async def test_a_long_name_of_a_project_is_not_kept(deployment: Deployment) -> None:
    reader = await deployment.caller("reader", grant("readonly", project="sh*"))
    policy = deployment.server.rooms.access.directory.policy
    for letter in "xyz":
        answer = await refusal(reader.page(letter * 1_000_000))
        assert answer.reason == "PERMISSION_DENIED"
        assert len(answer.message) < 400
    assert (await refusal(reader.page("sh" * 500_000))).reason == "INVALID_FIELD"
    assert {len(project) for *_, project in policy._scopes} <= {4, 65}


async def test_a_tenant_that_is_deleted_leaves_nothing_that_a_later_one_gets(
    deployment: Deployment, second: Deployment
) -> None:
    """A key is made at one server while its tenant is deleted at the other."""
    for round_ in range(8):
        name = f"t{round_}"
        await deployment.tenant(name, f"{name}-*")
        await second.server.rooms.access.directory.refresh()

        async def made(name: str = name) -> Any:
            return await ask(
                deployment.admin,
                "CreateKey",
                identity=f"{name}/x",
                tenant=name,
                grants=[grant("admin")],
            )

        outcomes = await asyncio.gather(
            made(), ask(second.admin, "DeleteTenant", name=name), return_exceptions=True
        )
        assert sum(isinstance(outcome, Exception) for outcome in outcomes) == 1
        await deployment.server.rooms.access.directory.refresh()
        policy = deployment.server.rooms.access.directory.policy
        assert (name in policy.tenants) == (f"{name}/x" in policy.bindings)


async def test_tenants_that_are_set_at_once_share_no_project(
    deployment: Deployment, second: Deployment
) -> None:
    outcomes = await asyncio.gather(
        *(
            ask(
                (deployment, second)[n % 2].admin,
                "SetTenant",
                tenant=pb.Tenant(name=f"t{n}", projects=["shared-*"]),
            )
            for n in range(12)
        ),
        return_exceptions=True,
    )
    assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 1
    await second.server.rooms.access.directory.refresh()
    tenants = second.server.rooms.access.directory.policy.tenants
    assert [t.projects for t in tenants.values() if t != Tenant("default")] == [
        frozenset({"shared-*"})
    ]


async def test_many_changes_at_two_servers_are_all_made(
    deployment: Deployment, second: Deployment
) -> None:
    await asyncio.gather(
        *((deployment, second)[n % 2].bind(f"i{n}", grant("readonly")) for n in range(30))
    )
    await second.server.rooms.access.directory.refresh()
    assert len((await ask(second.admin, "ListBindings")).bindings) == 31


async def test_who_is_no_administrator_any_more_changes_nothing(
    deployment: Deployment, second: Deployment
) -> None:
    """At a server that has not heard of it."""
    issued = await deployment.key("deputy", grant("admin"))
    deputy = second.with_key(issued.secret_key)
    await second.server.rooms.access.directory.refresh()
    await ask(deputy, "WhoAmI")
    second.server.rooms.access.directory.refresh = lambda: _never()  # type: ignore[method-assign]
    await ask(deployment.admin, "RevokeKey", key_id=issued.key.key_id)
    del second.server.rooms.access.directory.refresh  # type: ignore[attr-defined]
    answer = await refused(deputy, "CreateKey", identity="heir", grants=[grant("admin")])
    assert answer.reason == "UNAUTHENTICATED"
    assert not (await ask(deployment.admin, "ListKeys", identity="heir")).keys


async def _never() -> None:
    """A server that hears of nothing."""


async def test_who_administers_nothing_learns_of_no_keys_and_bindings(
    deployment: Deployment, acme: Caller
) -> None:
    nobody = await deployment.caller("nobody", grant("consumer"))
    (key,) = (await ask(deployment.admin, "ListKeys", identity="ops")).keys
    for rpc, name, there, not_there in (
        ("RotateKey", "key_id", key.key_id, "absent"),
        ("RevokeKey", "key_id", key.key_id, "absent"),
        ("DeleteBinding", "identity", "rival/one", "absent"),
        ("DeleteRole", "name", "admin", "absent"),
        ("DeleteTenant", "name", ACME, "absent"),
    ):
        answers = [await refused(nobody, rpc, **{name: value}) for value in (there, not_there)]
        assert answers[0] == answers[1], rpc
        assert answers[0].reason == "PERMISSION_DENIED"

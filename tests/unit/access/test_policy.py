"""The policy against a model that is written another way, and its own laws."""

from __future__ import annotations

import fnmatch
from dataclasses import replace

from contex_server.access.policy import Policy
from contex_server.access.records import (
    ApiKey,
    Binding,
    Grant,
    Role,
    Tenant,
    decode,
    encode,
)
from contex_server.access.roles import BUILT_IN, Permission
from contex_server.kernel.principal import ANYBODY, Credential, Principal
from contex_server.kernel.scope import Scope
from hypothesis import given
from hypothesis import strategies as st

PROJECTS = ["acme-shop", "acme-lab", "rival-shop", "other"]
KEYS = ["billing/a", "billing/public/b", "hr/c", ""]
GLOBS = ["*", "acme-*", "acme-shop", "rival-*", "*shop", "nothing"]
KEY_GLOBS = ["billing/*", "billing/public/*", "hr/?", "*", "none"]
ROLES = [*BUILT_IN, "custom", "no such role"]

grants = st.builds(
    Grant,
    st.sampled_from(ROLES),
    st.frozensets(st.sampled_from(GLOBS), min_size=1, max_size=2),
    st.none() | st.frozensets(st.sampled_from(KEY_GLOBS), min_size=1, max_size=2),
)
NAMES = ["alice", "bob", "group:corp:ops", "group:corp:dev"]
bindings = st.dictionaries(
    st.sampled_from(NAMES),
    st.tuples(st.sampled_from(["", "acme", "rival", "default"]), st.lists(grants, max_size=3)),
)
policies = st.builds(
    lambda some, custom: Policy(
        {"custom": Role("custom", custom)},
        {name: Binding(name, tenant, tuple(given)) for name, (tenant, given) in some.items()},
        {
            "acme": Tenant("acme", frozenset({"acme-*"})),
            "rival": Tenant("rival", frozenset({"rival-*"})),
        },
    ),
    bindings,
    st.frozensets(st.sampled_from(Permission)),
)
principals = st.builds(
    Principal,
    st.sampled_from(["alice", "bob", "nobody"]),
    st.sampled_from(["", "acme", "rival"]),
    st.just(Credential.API_KEY),
    groups=st.frozensets(st.sampled_from(NAMES[2:])),
)
some_permissions = st.frozensets(st.sampled_from(Permission), max_size=3)


def modelled(
    policy: Policy, who: Principal, wanted: frozenset[Permission], project: str, key: str
) -> bool:
    """Whether something is allowed, in one loop and by another kind of globs."""
    tenant = "default"
    for name in ("acme", "rival"):
        if project.startswith(f"{name}-"):
            tenant = name
    for name in [who.identity, *who.groups]:
        binding = policy.bindings.get(name)
        if binding is None or (who.tenant and who.tenant != binding.tenant):
            continue
        if binding.tenant and binding.tenant != tenant:
            continue
        for one in binding.grants:
            if one.role in BUILT_IN:
                may = BUILT_IN[one.role].permissions
            elif one.role == "custom":
                may = policy.custom_roles["custom"].permissions
            else:
                continue
            if wanted and not wanted & may:
                continue
            if not any(fnmatch.fnmatchcase(project, glob) for glob in one.projects):
                continue
            keys = one.data_keys
            if keys is None or (key and any(fnmatch.fnmatchcase(key, glob) for glob in keys)):
                return True
    return False


@given(policies, principals, some_permissions, st.sampled_from(PROJECTS))
def test_the_scope_is_what_the_model_allows(
    policy: Policy, who: Principal, wanted: frozenset[Permission], project: str
) -> None:
    scope = policy.scope(who, wanted, project)
    for key in KEYS:
        allowed = scope is not None and scope.admits(key)
        assert allowed == modelled(policy, who, wanted, project, key), key
        decision = policy.decide(who, wanted, project, data_key=key)
        assert decision.allowed == allowed
        assert decision.reason
        if allowed:
            assert any(not one.problem for one in decision.grants)
        else:
            assert all(one.problem for one in decision.grants)
    # Asked again, it is the same.
    assert policy.scope(who, wanted, project) == scope


@given(policies, principals, some_permissions, st.sampled_from(PROJECTS), grants)
def test_one_more_grant_takes_nothing_away(
    policy: Policy,
    who: Principal,
    wanted: frozenset[Permission],
    project: str,
    one: Grant,
) -> None:
    before = policy.scope(who, wanted, project)
    had = policy.bindings.get(who.identity, Binding(who.identity, who.tenant, ()))
    more = replace(had, grants=(*had.grants, one))
    bigger = replace(policy, bindings={**policy.bindings, who.identity: more})
    scope = bigger.scope(who, wanted, project)
    for key in KEYS:
        if before is not None and before.admits(key):
            assert scope is not None
            assert scope.admits(key)


@given(policies, principals, st.sampled_from(PROJECTS))
def test_a_tenant_stays_within_its_projects(policy: Policy, who: Principal, project: str) -> None:
    tenants = {held.binding.tenant for held in policy.held_by(who)}
    if tenants and "" not in tenants and policy.tenant_of(project).name not in tenants:
        assert policy.scope(who, frozenset(), project) is None
        for permission in Permission:
            assert policy.scope(who, frozenset({permission}), project) is None


@given(policies, principals, st.sampled_from(Permission))
def test_whole_tenants_are_those_where_nothing_is_refused(
    policy: Policy, who: Principal, permission: Permission
) -> None:
    for tenant in policy.whole_tenants(who, permission):
        for project in PROJECTS:
            if not tenant or policy.tenant_of(project).name == tenant:
                scope = policy.scope(who, frozenset({permission}), project)
                assert scope is not None
                assert scope.is_open


def test_everybody_may_everything_where_access_is_off() -> None:
    policy = Policy()
    assert policy.scope(ANYBODY, frozenset({Permission.ERASE}), "any") == Scope()
    assert "" in policy.whole_tenants(ANYBODY, Permission.ADMINISTER)


records = st.one_of(
    st.builds(Binding, st.sampled_from(NAMES), st.text(max_size=5), st.tuples(grants)),
    st.builds(
        ApiKey, st.text("0af", min_size=1), *[st.text(max_size=9)] * 6, st.integers(0, 2**53)
    ),
    st.builds(Role, st.just("custom"), st.frozensets(st.integers(1, 13)), st.text()),
    st.builds(
        Tenant,
        st.just("acme"),
        st.frozensets(st.text(min_size=1)),
        st.dictionaries(st.just("agents"), st.integers(1, 9)),
    ),
)


@given(records)
def test_records_are_read_as_they_were_written(record: ApiKey | Binding | Role | Tenant) -> None:
    assert decode(record.record_name, encode(record)) == record

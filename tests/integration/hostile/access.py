"""Keys, bindings, roles and tenants, and whose agents are."""

from __future__ import annotations

from typing import Any

from contex.v1 import access_service_pb2 as pb
from contex.v1.access_service_pb2 import Binding, Grant, Role, Tenant, UsageLimits
from contex_server.api.shared.cursors import Token, encode_text
from google.protobuf.duration_pb2 import Duration

from tests.integration.hostile.scene import METHODS, VALID
from tests.integration.hostile.shared import bad_tokens
from tests.integration.hostile.table import (
    AROUND,
    CASES,
    FEW,
    FIRST,
    NASTY,
    UNPRINTABLE,
    UNPRINTABLE_FEW,
    Case,
    forged,
    long_names,
    raw,
    refuse,
    some,
)
from tests.integration.support import P

_GRANT: dict[str, Any] = {"role": "readonly", "projects": ["*"]}
_TENANT: dict[str, Any] = {"name": "t", "projects": ["t-*"]}
_IDENTITIES = some({"empty": "", **long_names(128), **UNPRINTABLE, **AROUND}, *UNPRINTABLE_FEW)
_NAMES = some({"empty": "", **long_names(64), **NASTY, **FIRST}, *FEW, "first is -", "space")
_GLOBS = {"empty": "", "NUL": "a\0b", "nothing after a backslash": "a\\"}


def _missing(kind: str) -> dict[str, Any]:
    return {
        "reason": "ACCESS_NOT_FOUND",
        "code": "NOT_FOUND",
        "metadata": frozenset({"kind", "name"}),
        "says": f"there is no {kind}",
    }


# Of whom.
for _name, _text in _IDENTITIES.items():
    refuse("CreateKey", f"identity {_name}", "identity", identity=_text)
    refuse("DeleteBinding", f"identity {_name}", "identity", identity=_text)
    refuse("AssignAgents", f"identity {_name}", "identity", identity=_text)
    binding = Binding(identity=_text)
    refuse("SetBinding", f"identity {_name}", "binding.identity", binding=binding)
    if _text:
        refuse("CheckAccess", f"identity {_name}", "identity", identity=_text)
        refuse("ListKeys", f"identity {_name}", "identity", identity=_text)
for _rpc, _tenant in {"CreateKey": "tenant", "SetBinding": "binding.tenant"}.items():
    for _text in ("acme/x", "default/x", "/", "a/"):
        # A tenant that there is not; or no tenant, whose identities have no "/".
        named = _text.partition("/")[0] in ("acme", "a")
        _field = _tenant if named else _tenant.replace("tenant", "identity")
        _changes: dict[str, Any] = {"identity": _text}
        if _rpc == "SetBinding":
            _changes = {"binding": Binding(identity=_text)}
        refuse(_rpc, f"{_text!r} of no tenant", _field, **_changes)
for _text in ("a:b", "cert:a", "group:a:b", ":"):
    refuse("CreateKey", f"a name that no key proves {_text}", "identity", identity=_text)
for _name, _text in some({"long": "a" * 257, **UNPRINTABLE}, "long", "NUL", "newline").items():
    refuse("CheckAccess", f"groups {_name}", "groups[1]", groups=["group:a:b", _text])
refuse("CheckAccess", "groups empty", "groups[0]", groups=[""])
refuse("CheckAccess", "groups too many", "groups", groups=["group:a:b"] * 33)
for _name, _text in some({"empty": "", **long_names(128), **UNPRINTABLE}, *UNPRINTABLE_FEW).items():
    refuse("AssignAgents", f"agent_ids {_name}", "agent_ids", agent_ids=_text)

# Of which tenant.
for _name, _text in _NAMES.items():
    if _text:
        refuse("CreateKey", f"tenant {_name}", "tenant", tenant=_text)
        refuse("ListKeys", f"tenant {_name}", "tenant", tenant=_text)
        refuse("ListBindings", f"tenant {_name}", "tenant", tenant=_text)
        binding = Binding(identity="a", tenant=_text)
        refuse("SetBinding", f"tenant {_name}", "binding.tenant", binding=binding)
    refuse("GetUsage", f"tenant {_name}", "tenant", tenant=_text)
    refuse("SetTenant", f"name {_name}", "tenant.name", tenant=Tenant(name=_text))
    refuse("DeleteTenant", f"name {_name}", "name", name=_text)
    refuse("SetRole", f"name {_name}", "role.name", role=Role(name=_text, permissions=[1]))
    refuse("DeleteRole", f"name {_name}", "name", name=_text)
refuse("CreateKey", "a tenant that there is not", "tenant", identity="no/a", tenant="no")
refuse(
    "SetBinding",
    "a tenant that there is not",
    "binding.tenant",
    binding=Binding(identity="no/a", tenant="no"),
)
refuse("DeleteTenant", "of no name", expect=_missing("tenant"), name="no")
refuse("DeleteTenant", "the default one", expect=_missing("tenant"), name="default")
refuse("DeleteRole", "of no name", expect=_missing("role"), name="no")
refuse("DeleteBinding", "of nobody", expect=_missing("binding"), identity="nobody")
for _rpc in ("RotateKey", "RevokeKey"):
    refuse(_rpc, "of no id", expect=_missing("key"), key_id="0")
    for _name, _text in some({"empty": "", **long_names(64), **NASTY, **FIRST}, *FEW).items():
        refuse(_rpc, f"key_id {_name}", "key_id", key_id=_text)
for _name in ("admin", "operator", "publisher", "consumer", "readonly", "auditor"):
    built_in = Role(name=_name, permissions=[1])
    refuse("SetRole", f"{_name} is built in", "role.name", role=built_in)
    refuse("DeleteRole", f"{_name} is built in", "name", name=_name)
CASES.append(Case("GetUsage", "of nothing", pb.GetUsageRequest, field="of"))
for _name, _text in some({"empty": "", **long_names(64), **NASTY, **FIRST}, *FEW).items():
    refuse("GetUsage", f"project {_name}", "project", project=_text)

# What is said of them.
for _rpc, _field, _message in (
    ("CreateKey", "name", None),
    ("CreateKey", "owner", None),
    ("SetRole", "description", Role(name="r", permissions=[1])),
    ("SetTenant", "description", Tenant(**_TENANT)),
):
    for _name, _text in {"one too long": "a" * 257, "far too long": "😀" * 100_000}.items():
        if _message is None:
            refuse(_rpc, f"{_field} {_name}", _field, **{_field: _text})
            continue
        _whole: Any = type(_message)()
        _whole.CopyFrom(_message)
        setattr(_whole, _field, _text)
        _outer = "role" if _rpc == "SetRole" else "tenant"
        refuse(_rpc, f"{_field} {_name}", f"{_outer}.{_field}", **{_outer: _whole})

# Grants.
for _rpc, _list in {"CreateKey": "grants", "SetBinding": "binding.grants"}.items():
    for _field, _bad in {
        "role": [{"role": text} for text in _NAMES.values()] + [{"role": "no-such"}],
        "projects": [{"projects": []}, {"projects": ["*"] * 33}],
        "projects[1]": [{"projects": ["*", text]} for text in (*_GLOBS.values(), "a" * 65)],
        "data_keys": [{"data_keys": ["a"] * 33}],
        "data_keys[1]": [{"data_keys": ["a", text]} for text in (*_GLOBS.values(), "a" * 513)],
    }.items():
        for _number, _change in enumerate(_bad):
            _grants = [Grant(**_GRANT), Grant(**_GRANT | _change)]
            _changes = {"grants": _grants}
            if _rpc == "SetBinding":
                _changes = {"binding": Binding(identity="somebody", grants=_grants)}
            refuse(_rpc, f"{_field} {_number}", f"{_list}[1].{_field}", **_changes)
    _grants = [Grant(**_GRANT)] * 33
    _changes = {"grants": _grants}
    if _rpc == "SetBinding":
        _changes = {"binding": Binding(identity="somebody", grants=_grants)}
    refuse(_rpc, "grants too many", _list, **_changes)

# How long.
for _rpc, _field, _low_s, _high_s in (
    ("CreateKey", "ttl", 1, 3_650 * 86_400),
    ("RotateKey", "ttl", 1, 3_650 * 86_400),
    ("RotateKey", "overlap", 0, 90 * 86_400),
):
    for _length in (
        Duration(seconds=_low_s - 1, nanos=999_999_999 if _low_s else 0)
        if _low_s
        else Duration(seconds=-1),
        Duration(nanos=-1),
        Duration(seconds=1, nanos=-1),
        Duration(seconds=1, nanos=1_000_000_000),
        Duration(seconds=_high_s, nanos=1_000_000),
        Duration(seconds=2**63 - 1),
        Duration(seconds=-(2**63)),
    ):
        _name = f"{_field} {_length.seconds} s, {_length.nanos} ns"
        refuse(_rpc, _name, _field, **{_field: _length})

# Roles and what they allow.
refuse("SetRole", "no permissions", "role.permissions", role=Role(name="r"))
for _value in (0, 14, 99, -1, 2**31 - 1, -(2**31)):
    refuse(
        "SetRole",
        f"permission {_value}",
        "role.permissions[1]",
        role=Role(name="r", permissions=[1, _value]),  # type: ignore[list-item]
    )
    refuse("CheckAccess", f"permission {_value}", "permission", permission=_value)
for _text in ("", "NoSuchMethod", "getState", "a" * 100_000, "GetState\n", "WhoAmI", "CreateKey"):
    refuse("CheckAccess", f"method {_text[:20]!r}", "method", method=_text)
CASES.append(Case("CheckAccess", "nothing", lambda: pb.CheckAccessRequest(project=P), field="what"))
for _name, _text in some({**long_names(256), **UNPRINTABLE}, *UNPRINTABLE_FEW[1:]).items():
    refuse("CheckAccess", f"data_key {_name}", "data_key", data_key=_text)

# Tenants and their limits.
for _text in (*_GLOBS.values(), "a" * 65):
    refuse(
        "SetTenant",
        f"projects {_text[:10]!r}",
        "tenant.projects[1]",
        tenant=Tenant(name="t", projects=["t-*", _text]),
    )
refuse(
    "SetTenant",
    "projects too many",
    "tenant.projects",
    tenant=Tenant(name="t", projects=["t-*"] * 33),
)
refuse(
    "SetTenant",
    "projects of the default one",
    "tenant.projects",
    tenant=Tenant(name="default", projects=["a"]),
)
for _list in ("limits", "project_limits"):
    for _field in UsageLimits.DESCRIPTOR.fields_by_name:
        for _value in (-1, 2**53 + 1, 2**63 - 1, -(2**63)):
            _limits = UsageLimits(**{_field: _value})
            refuse(
                "SetTenant",
                f"{_list}.{_field} {_value}",
                f"tenant.{_list}.{_field}",
                tenant=Tenant(**_TENANT, **{_list: _limits}),
            )

# Lists.
for _rpc, _token in {"ListKeys": Token.KEYS_PAGE, "ListBindings": Token.BINDINGS_PAGE}.items():
    for _value in (-1, 1_001, 2**31 - 1, -(2**31)):
        refuse(_rpc, f"page_size {_value}", "page_size", page_size=_value)
    for _name, _text in bad_tokens(_token).items():
        if _name == "too short inside":
            _text = forged(_token, b"\xff", "")
        refuse(
            _rpc,
            f"page_token {_name}",
            "page_token",
            expect={"reason": "CURSOR_INVALID"},
            page_token=_text,
        )
    refuse(
        _rpc,
        "page_token of a project",
        "page_token",
        expect={"reason": "CURSOR_INVALID"},
        page_token=encode_text(_token, P, "a"),
    )

# What asks for nothing, and what only tells.
for _rpc in ("WhoAmI", "ListRoles", "ListTenants"):
    assert not METHODS[_rpc].input_type.fields
    raw(_rpc, "a field that is cut off", lambda: b"\x0a\x05abc")
assert VALID.keys() == METHODS.keys()

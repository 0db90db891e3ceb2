"""The audit."""

from __future__ import annotations

from contex.v1 import audit_service_pb2
from contex.v1.audit_service_pb2 import AuditFilter

from tests.integration.hostile.table import (
    FEW,
    NASTY,
    UNPRINTABLE,
    UNPRINTABLE_FEW,
    long_names,
    refuse,
    some,
)

for _rpc in ("ListRecords", "ExportRecords"):
    for _list, _bad in {
        "actors": some({**long_names(128), **UNPRINTABLE}, *UNPRINTABLE_FEW[1:]),
        "agent_ids": some({"empty": "", **long_names(128), **NASTY}, *FEW),
        "data_keys": some({"empty": "", **long_names(512), **UNPRINTABLE}, *UNPRINTABLE_FEW),
    }.items():
        for _name, _text in _bad.items():
            refuse(
                _rpc,
                f"{_list} {_name}",
                f"filter.{_list}[1]",
                filter=AuditFilter(**{_list: ["a", _text]}),
            )
        refuse(
            _rpc, f"{_list} too many", f"filter.{_list}", filter=AuditFilter(**{_list: ["a"] * 33})
        )
    for _value in (0, max(audit_service_pb2.AuditAction.values()) + 1, 99, -1, 2**31 - 1, -(2**31)):
        refuse(
            _rpc,
            f"action {_value}",
            "filter.actions[1]",
            filter=AuditFilter(actions=[1, _value]),  # type: ignore[list-item]
        )
    refuse(_rpc, "actions too many", "filter.actions", filter=AuditFilter(actions=[1] * 17))  # type: ignore[list-item]
    for _name, _text in some({**long_names(64), **NASTY}, *FEW[1:]).items():
        refuse(
            _rpc, f"request_id {_name}", "filter.request_id", filter=AuditFilter(request_id=_text)
        )
for _value in (4, 99, -1, 2**31 - 1, -(2**31)):
    refuse("ExportRecords", f"format {_value}", "format", format=_value)

"""States and histories."""

from __future__ import annotations

from tests.integration.hostile.table import (
    AROUND,
    UNPRINTABLE,
    UNPRINTABLE_FEW,
    long_names,
    refuse,
    some,
)

for _rpc in ("GetState", "StreamState", "DiffStates"):
    for _text in ("", "a\tb", "a\\", "a" * 513):
        refuse(_rpc, f"keys {_text[:9]!r}", "data_keys[1]", data_keys=["x*", _text])
    refuse(_rpc, "keys too many", "data_keys", data_keys=["*"] * 33)
    for _name, _text in some({**long_names(256), **UNPRINTABLE}, *UNPRINTABLE_FEW[1:]).items():
        refuse(_rpc, f"prefix {_name}", "prefix", prefix=_text)
    for _value in (3, 99, -1, 2**31 - 1, -(2**31)):
        refuse(_rpc, f"view {_value}", "view", view=_value)
for _name, _text in some({**long_names(256), **UNPRINTABLE}, *UNPRINTABLE_FEW[1:]).items():
    refuse("StreamState", f"after {_name}", "after_data_key", after_data_key=_text)
for _rpc in ("GetHistory", "GetRevision", "GetBlame"):
    for _name, _text in {"empty": "", **long_names(256), **UNPRINTABLE, **AROUND}.items():
        refuse(_rpc, f"key {_name}", "data_key", data_key=_text)
    refuse(
        _rpc,
        "a key that nobody knows",
        expect={
            "reason": "DATA_KEY_NOT_FOUND",
            "code": "NOT_FOUND",
            "metadata": frozenset({"data_key"}),
        },
        data_key="nobody.knows",
    )
refuse("GetRevision", "revision 0", "revision", revision=0)
for _value in (2, 2**53, 2**64 - 1):
    refuse(
        "GetRevision",
        f"revision {_value}",
        expect={
            "reason": "REVISION_NOT_FOUND",
            "code": "NOT_FOUND",
            "metadata": frozenset({"data_key", "revision", "actual_revision"}),
        },
        revision=_value,
    )

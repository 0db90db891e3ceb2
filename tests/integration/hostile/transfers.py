"""Exports and imports."""

from __future__ import annotations

from typing import Any

from contex.v1 import event_pb2
from contex.v1.transfer_service_pb2 import ImportStart, KeyMapping, Redaction

from tests.integration.hostile.table import (
    BAD_METADATA,
    FEW,
    FIRST,
    NASTY,
    NO_TIME,
    long_names,
    position,
    refuse,
    some,
)

for _value in (5, 6, 2**31 - 1):
    refuse("ExportProject", f"format {_value}", "format", format=_value)
for _value in (0, 1, 4):
    refuse("ExportProject", f"compress {_value}", "compress", format=_value, compress=True)
for _value in (0, 4, 99):
    refuse("ExportProject", f"include {_value}", "include[1]", include=[1, _value])
refuse("ExportProject", "include of lines", "include[0]", format=2, include=[1])
refuse("ExportProject", "include too many", "include", include=[1] * 9)
refuse("ExportProject", "resume_token of Parquet", "resume_token", format=4, resume_token="x")


def refuse_import(name: str, field: str, **changes: Any) -> None:
    """A start of an import with some fields changed is refused."""
    start = ImportStart(**{"project": "imported", **changes})
    refuse("ImportProject", name, f"start.{field}", start=start)


for _name, _text in some({"empty": "", **long_names(64), **NASTY, **FIRST}, *FEW).items():
    refuse_import(f"project {_name}", "project", project=_text)
refuse_import("a staged project", "project", project="shop~import")
refuse("ImportProject", "nothing", "start", start=ImportStart(), data=b"x")
for _value in (3, 2**31 - 1):
    refuse_import(f"mode {_value}", "mode", mode=_value)
for _value in (4, 6):
    refuse_import(f"format {_value}", "format", format=_value)
refuse_import("an old answer as it is", "mode", format=5)
for _name, _text in some({**long_names(64), **NASTY}, "one too long", "NUL", "emoji").items():
    refuse_import(f"import_id {_name}", "import_id", import_id=_text)
for _field in ("since", "until"):
    refuse_import(f"{_field} nowhere", _field, **{_field: position()})
    refuse_import(f"{_field} no place", f"{_field}.sequence", **{_field: position(sequence="x")})
    refuse_import(f"{_field} at -1", f"{_field}.unix_ms", **{_field: position(unix_ms=-1)})
    for _name, _time in NO_TIME.items():
        refuse_import(f"{_field} {_name}", f"{_field}.time", **{_field: position(time=_time)})
for _list, _text in {
    "event_types": " a",
    "data_keys": "a\\",
    "publishers": "a\n",
    "event_type_prefixes": "",
}.items():
    refuse_import(
        f"filter.{_list}",
        f"filter.{_list}[1]",
        filter=event_pb2.EventFilter(**{_list: ["fine", _text]}),
    )
    refuse_import(
        f"filter.{_list} too many",
        f"filter.{_list}",
        filter=event_pb2.EventFilter(**{_list: ["a"] * 33}),
    )
for _name, _metadata in BAD_METADATA.items():
    refuse_import(
        f"filter.metadata {_name}",
        "filter.metadata",
        filter=event_pb2.EventFilter(metadata=_metadata),
    )
_FINE = KeyMapping(from_prefix="a", to_prefix="b")
for _name, _text in {"one too long": "a" * 257, "NUL": "a\0"}.items():
    for _field, _mapping in {
        "from_prefix": KeyMapping(from_prefix=_text, to_prefix="b"),
        "to_prefix": KeyMapping(from_prefix="a", to_prefix=_text),
    }.items():
        refuse_import(f"{_field} {_name}", f"remap_keys[1].{_field}", remap_keys=[_FINE, _mapping])
refuse_import("from nothing", "remap_keys[1].from_prefix", remap_keys=[_FINE, KeyMapping()])
refuse_import("remap_keys too many", "remap_keys", remap_keys=[_FINE] * 33)
_REDACTION = Redaction(json_pointer="/a")
for _field, _redaction in {
    "json_pointer": Redaction(json_pointer="a"),
    "action": Redaction(json_pointer="/a", action=9),  # type: ignore[arg-type]
    "replacement": Redaction(json_pointer="/a", action=2),
    "data_keys[1]": Redaction(json_pointer="/a", data_keys=["fine", "\\"]),
    "data_keys": Redaction(json_pointer="/a", data_keys=["a"] * 33),
}.items():
    refuse_import(
        f"redactions.{_field}", f"redactions[1].{_field}", redactions=[_REDACTION, _redaction]
    )
for _name, _redaction in {
    "json_pointer empty": Redaction(),
    "json_pointer long": Redaction(json_pointer="/" + "a" * 256),
}.items():
    refuse_import(_name, "redactions[1].json_pointer", redactions=[_REDACTION, _redaction])
for _name, _redaction in {
    "with REMOVE": Redaction(json_pointer="/a", replacement=b"1"),
    "no JSON": Redaction(json_pointer="/a", action=2, replacement=b"{"),
    "long": Redaction(json_pointer="/a", action=2, replacement=b"1" * 4_097),
}.items():
    refuse_import(
        f"replacement {_name}", "redactions[1].replacement", redactions=[_REDACTION, _redaction]
    )
refuse_import("redactions too many", "redactions", redactions=[_REDACTION] * 33)

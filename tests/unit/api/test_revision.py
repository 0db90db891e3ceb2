"""The revision of the API is raised with the API."""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path

from contex_server.api.server.servicer import API_REVISION

PROTOS = Path(__file__).parents[3] / "protos/contex/v1"
RECORDED = (5, "54e88f2b24a7d336fd87d9b3850f67af710f1c3ca782f2f4515ff0ec4db8bc37")
"""A revision, and the digest of what the protos declare with it."""


def digest() -> str:
    """Of all messages, enums and services, without the comments."""
    names = sorted(path.stem for path in PROTOS.glob("*.proto"))
    modules = (import_module(f"contex.v1.{name}_pb2") for name in names)
    return hashlib.sha256(b"".join(m.DESCRIPTOR.serialized_pb for m in modules)).hexdigest()


def test_the_revision_is_raised_when_the_api_changes() -> None:
    hint = "the API has changed: raise API_REVISION, unless that is done, and record it here"
    assert (API_REVISION, digest()) == RECORDED, hint

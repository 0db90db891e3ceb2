"""What importing the client costs: modules are imported when they are first used."""

from __future__ import annotations

import json
import subprocess
import sys

import contex
import pytest


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter has after running code."""
    program = f"{code}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return set(json.loads(run.stdout))


def test_importing_the_package_imports_nothing_else() -> None:
    modules = modules_after("import contex")
    assert not {name for name in modules if name.startswith(("contex.", "grpc", "google"))}


@pytest.mark.parametrize("client", ["AsyncClient", "Client"])
def test_a_client_imports_no_service_before_its_first_call(client: str) -> None:
    modules = modules_after(f"from contex import {client}")
    values = ("events", "agents", "match", "state", "audit", "projects", "transfer", "wire")
    assert not {f"contex.{name}" for name in values} & modules
    assert not {name for name in modules if name.startswith(("contex.v1", "google", "dataclasses"))}


def test_a_health_check_needs_no_protobuf() -> None:
    modules = modules_after(
        "from contex import Client, Unavailable\n"
        "try: Client('127.0.0.1:1').health('a')\n"
        "except Unavailable: pass\n"
        "else: raise SystemExit('served')"
    )
    assert "grpc" in modules
    assert not {name for name in modules if name.startswith(("contex.v1", "google"))}


def test_a_call_imports_the_messages_of_its_service_only() -> None:
    modules = modules_after(
        "from contex import Client, ContexError\n"
        "try: Client('127.0.0.1:1', timeout=0.1).get_event('p', '1-0')\n"
        "except ContexError: pass\n"
        "else: raise SystemExit('served')"
    )
    services = {name for name in modules if name.endswith("_service_pb2")}
    assert services == {"contex.v1.event_service_pb2"}


def test_all_names_are_there() -> None:
    for name in contex.__all__:
        assert getattr(contex, name) is not None
    assert set(contex.__all__) <= set(dir(contex))
    with pytest.raises(AttributeError, match="Nothing"):
        _ = contex.Nothing

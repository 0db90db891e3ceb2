from __future__ import annotations

import importlib
import pkgutil

import contex
import contex.v1
import pytest
from contex.channel import (
    check_target,
    health_request,
    health_status,
    identity_metadata,
    service_config,
)
from grpc_health.v1 import health_pb2
from hypothesis import given
from hypothesis import strategies as st


@given(st.text(max_size=300).filter(lambda name: "\0" not in name))
def test_a_health_request_is_that_of_the_protocol(service: str) -> None:
    expected = health_pb2.HealthCheckRequest(service=service)
    assert health_pb2.HealthCheckRequest.FromString(health_request(service)) == expected


@pytest.mark.parametrize("number", health_pb2.HealthCheckResponse.ServingStatus.values())
def test_a_health_status_is_that_of_the_protocol(number: int) -> None:
    message = health_pb2.HealthCheckResponse(status=number).SerializeToString()
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(number)
    assert health_status(message) == name


def test_a_health_status_of_a_newer_protocol_is_unknown() -> None:
    assert health_status(health_pb2.HealthCheckResponse(status=9).SerializeToString()) == "UNKNOWN"


def test_an_identity_is_escaped_for_metadata() -> None:
    assert identity_metadata("") == ()
    assert identity_metadata("team/a b:ü@x") == (("contex-identity", "team/a%20b:%C3%BC@x"),)


def test_the_user_agent_has_the_version() -> None:
    options = dict(contex.channel_options())
    assert options["grpc.primary_user_agent"] == f"contex-python/{contex.__version__}"


@pytest.mark.parametrize(
    "target",
    ["localhost:1", "[::1]:65535", "dns:///host:50051", "unix:/run/c.sock", "ipv4:1.2.3.4:5"],
)
def test_a_target_is_taken_as_it_is(target: str) -> None:
    assert check_target(target) == target


@pytest.mark.parametrize(
    "target", ["", "localhost", "127.0.0.1:", ":50051", "h:0", "h:115587", "http://h:50051"]
)
def test_a_target_that_grpc_would_guess_at_is_refused(target: str) -> None:
    for kind in (contex.Client, contex.AsyncClient):
        with pytest.raises(ValueError, match="is not HOST:PORT, with a port from 1 to 65535"):
            kind(target)


def test_grpc_retries_every_call_that_only_reads() -> None:
    configs = service_config(10)["methodConfig"]
    retried = {(name["service"], name["method"]) for name in configs[0]["name"]}
    reads = set()
    for module in pkgutil.iter_modules(contex.v1.__path__):
        if not module.name.endswith("_service_pb2"):
            continue
        file = importlib.import_module(f"contex.v1.{module.name}").DESCRIPTOR
        for service in file.services_by_name.values():
            reads |= {
                (service.full_name, method.name)
                for method in service.methods
                if method.name.startswith(("Get", "List", "Diff")) and not method.server_streaming
            }
    others = {("contex.v1.MatchService", name) for name in ("Match", "Explain")}
    others |= {("contex.v1.AccessService", name) for name in ("WhoAmI", "CheckAccess")}
    assert retried == reads | others

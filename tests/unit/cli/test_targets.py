"""Where nothing listens, and targets that are typed as URLs."""

from __future__ import annotations

import json
import shlex
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from contex import Unavailable
from contex_cli.commands import COMMANDS, load
from contex_cli.exits import ExitCode
from contex_cli.targets import parse_target, unreached

from tests import command_line
from tests.unit.cli.service import serving

LINES = [
    *("publish k 1", "publish k --delete", "publish --stream FILE", "events", "replay", "tail -f"),
    *("state", "state k --json", "diff 0", "history k", "blame k", "register a -n x", "listen a"),
    *("agents", "agents show a", "agents update a -n x", "agents unregister a", "agents ack a 1-0"),
    *("agents wait a 1-0", "agents lag", "agents lag a", "agents seek a end", "consume a"),
    *("consume a -- true", "parked list a", "parked redrive a --all", "parked drop a 1-0"),
    *("knew a", "deliveries --agent a", "match x", "explain x k", "backtest x", "matching --watch"),
    *("feedback give a 1-0 --useful", "feedback export", "stats", "activity", "audit"),
    *("audit --format csv", "export -o OUT", "import FILE", "clone a b", "retention show"),
    *("retention set --reset", "remove --before 5-0 --reason x --yes", "verify --repair", "health"),
    *(
        "erase --key k --reason x --yes",
        "info",
        "projects",
        "projects show p",
        "projects encryption p",
        "get k",
    ),
    *("projects delete p --reason x --yes", "agents assign i a", "whoami", "can i read p"),
    *("access list", "access grant i r -p x", "access revoke i r", "access delete i"),
    *("keys create i", "keys list", "keys rotate k", "keys revoke k", "login --api-key-file KEY"),
    *("roles", "roles set r read", "roles delete r", "tenants", "tenants set t -p x"),
    *("tenants delete t", "usage"),
]


@pytest.fixture(scope="module")
def nowhere() -> Iterator[str]:
    """A target where nothing listens as long as the port is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"localhost:{taken.getsockname()[1]}"


@pytest.mark.parametrize("line", LINES)
def test_every_command_says_at_once_that_nothing_listens(
    line: str, nowhere: str, tmp_path: Path
) -> None:
    (tmp_path / "lines").write_text('{"data_key":"k","data":1}')
    (tmp_path / "key").write_text("ctx_a_b")
    line = line.replace("KEY", str(tmp_path / "key"))
    line = line.replace("FILE", str(tmp_path / "lines")).replace("OUT", str(tmp_path / "out"))
    started = time.monotonic()
    done = command_line.invoke(*shlex.split(line), env={"CONTEX_TARGET": f"http://{nowhere}"})
    assert time.monotonic() - started < 5
    assert (done.exit_code, done.stdout, done.stderr) == (
        ExitCode.UNAVAILABLE,
        "",
        f"contex: nothing listens at {nowhere}; start one with `contex serve`, or set --target\n",
    )


def test_no_command_is_left_out() -> None:
    called = {name for name in COMMANDS if any(f"{line} ".startswith(f"{name} ") for line in LINES)}
    assert called == {
        name
        for name, (module, _) in COMMANDS.items()
        if not module.startswith("contex_demo")
        and name != "logout"  # which calls nobody
        and any(parameter.name == "target" for parameter in load(name).params)
    }


def test_health_for_programs_has_an_answer_all_the_same(nowhere: str) -> None:
    done = command_line.invoke("health", "--json", "--target", nowhere)
    assert done.exit_code == ExitCode.UNAVAILABLE
    assert json.loads(done.stdout)["status"] == "UNREACHABLE"


def test_a_url_without_tls_is_a_target() -> None:
    with serving() as (target, *_):
        for url in (f"http://{target}", f"http://{target}/", f"GRPC://{target}"):
            assert command_line.invoke("agents", "show", "a", "--target", url).exit_code == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("https://a/", "has no port; type contexs://a:50051, or another port"),
        ("contexs://a:1/x", "has a path; type contexs://a:1"),
        ("http://a/", "has no port; type a:50051, or another port"),
        ("http://a:1/x", "has a path; type a:1"),
    ],
)
def test_other_urls_say_what_to_type(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_target(text)
    done = command_line.invoke("stats", "--target", text)
    assert (done.exit_code, done.stderr.count("\n")) == (ExitCode.USAGE, 1)
    assert told in done.stderr


@pytest.mark.parametrize("url", ["https://a:1/", "GRPCS://a:1", "contexs://a:1", "ContexS://a:1/"])
def test_a_url_may_ask_for_tls(url: str) -> None:
    assert parse_target(url) == parse_target("a:1", secure=True) == "contexs://a:1"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv6:%5B::1%5D:1: Failed to "
            "connect to remote host: Connection refused",
            "nothing listens at [::1]:1; start one with",
        ),
        (
            "failed to connect to all addresses; last error: FAILED_PRECONDITION: unix:/x: connect "
            "failed: addr: unix:/x error: No such file or directory",
            "nothing listens at unix:/x; start one with",
        ),
        ("errors resolving no.where:1: not found", "can't reach the server: errors resolving"),
        ("Socket closed", ""),
        (
            "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:1: Socket "
            "closed",
            "can't reach 127.0.0.1:1: the server closes the connection: perhaps it speaks TLS",
        ),
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Custom "
            "verification check failed with error: UNAUTHENTICATED: Hostname Verification Check "
            "failed.",
            "can't reach 127.0.0.1:1: the server's certificate is for another host name",
        ),
    ],
)
def test_what_grpc_says_is_understood(message: str, told: str) -> None:
    said = unreached(Unavailable(message, grpc.StatusCode.UNAVAILABLE))
    assert said.startswith(told)
    assert bool(said) is bool(told)
    assert unreached(Unavailable(message, grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")) == ""

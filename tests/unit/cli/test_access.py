"""Commands of access, against a service over a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import contex
import grpc
import pytest
from contex.v1 import access_pb2
from contex_cli import indexing
from contex_cli.command import Session
from contex_cli.exits import ExitCode

from tests import access_service, command_line
from tests.access_service import ADMIN_KEY, SECRET, Access


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith("CONTEX_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def access(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Access]:
    with access_service.serving() as (target, access, _):
        monkeypatch.setenv("CONTEX_TARGET", target)
        monkeypatch.setenv("CONTEX_API_KEY", ADMIN_KEY)
        yield access


def run(words: str, code: ExitCode = ExitCode.OK, stdin: str = "") -> str:
    """What a command prints on stdout, or on stderr if it fails."""
    done = command_line.invoke(*words.split(), stdin=stdin)
    assert done.exit_code == code, done.output
    return " ".join((done.stdout if code in (0, 12) else done.stderr).split())


# -- who calls ---------------------------------------------------------------------------


def test_whoami(access: Access) -> None:
    shown = run("whoami")
    assert "identity root" in shown
    assert "proved by api key adminadmin00" in shown
    assert "admin * all" in shown
    me = json.loads(run("whoami --json"))
    assert (me["identity"], me["credential"], me["expire_time"]) == ("root", "api_key", None)


def test_login_verifies_a_key_and_keeps_it(
    access: Access, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONTEX_API_KEY")
    assert "UNAUTHENTICATED" in run("whoami", ExitCode.DENIED)
    assert "--api-key-stdin" in run("login", ExitCode.USAGE)
    assert "UNAUTHENTICATED" in run("login --api-key-stdin", ExitCode.DENIED, "wrong\n")
    file = home / "contex/credentials.json"
    assert not file.exists()
    said = run("login --api-key-stdin", stdin=f"{ADMIN_KEY}\n")
    assert said.startswith("root at 127.0.0.1:")
    assert said.endswith(f"kept in {file}")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "root" in run("whoami")
    assert "forgotten" in run("logout")
    assert "no key was kept" in run("logout")
    assert "UNAUTHENTICATED" in run("whoami", ExitCode.DENIED)


def test_login_takes_a_file(access: Access, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONTEX_API_KEY")
    (home / "key").write_text(f"{ADMIN_KEY}\n")
    assert "root" in run("whoami --api-key-file key")
    assert json.loads(run("login --api-key-file key --json"))["identity"] == "root"
    assert "can't use 'missing'" in run("whoami --api-key-file missing", ExitCode.USAGE)


def test_a_command_goes_on_with_the_key_that_is_in_the_file_now(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with access_service.serving() as (target, access, agents):
        file = home / "key"
        for words in ("--api-key-file key", ""):
            file.write_text("ctx_one_x")
            if not words:
                monkeypatch.setenv("CONTEX_API_KEY_FILE", "key")
            agents.before_end = lambda: file.write_text("ctx_two_x")
            agents.ends = [(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", "REVOKED")]
            access.authorizations.clear()
            shown = run(f"listen a --count 2 --json --target {target} {words}")
            assert shown.count('"sequence"') == 2
            assert access.authorizations == ["Bearer ctx_one_x", "Bearer ctx_two_x"]


def test_an_empty_key_file_is_said_to_be_empty(access: Access, home: Path) -> None:
    (home / "key").write_text("")
    assert "key: is empty" in run("whoami --api-key-file key", ExitCode.USAGE)


def test_no_secret_is_quoted(access: Access, home: Path) -> None:
    for text in ("two words", "ctx_ä"):
        (home / "key").write_text(text)
        said = run("whoami --api-key-file key", ExitCode.USAGE)
        assert "key: is not an API key or token" in said
        assert text not in said
    said = run("login --api-key-stdin", ExitCode.USAGE, "not a key\n")
    assert "stdin: is not an API key or token" in said


def test_a_key_is_not_sent_unencrypted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTEX_API_KEY", ADMIN_KEY)
    said = run("whoami --target contex.example.com:1", ExitCode.USAGE)
    assert "not encrypted" in said
    assert "CONTEX_ALLOW_PLAINTEXT_CREDENTIALS=1" in said
    assert ADMIN_KEY not in said


def test_a_file_that_others_can_read_is_said_to_be_left_out(
    access: Access, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONTEX_API_KEY")
    (home / "data").mkdir()
    (home / "data/admin.key").write_text(ADMIN_KEY)
    (home / "data/admin.key").chmod(0o644)
    said = run("whoami", ExitCode.DENIED)
    assert said.startswith("contex: not used: data/admin.key: others can read it")
    (home / "data/admin.key").chmod(0o600)
    assert "root" in run("whoami")


# -- keys --------------------------------------------------------------------------------


def test_a_new_key_is_alone_on_stdout(access: Access) -> None:
    words = (
        "keys create billing --role publisher -p acme-* --data-key billing/* --ttl 90d --name ci"
    )
    done = command_line.invoke(*words.split())
    assert done.stdout == f"ctx_key000000000_{SECRET}\n"
    assert "it is shown this once" in done.stderr
    assert SECRET not in done.stderr
    request = access.requests[-1]
    assert (request.identity, request.name, request.ttl.seconds) == ("billing", "ci", 7_776_000)
    (grant,) = request.grants
    assert (grant.role, [*grant.projects], [*grant.data_keys]) == (
        "publisher",
        ["acme-*"],
        ["billing/*"],
    )
    created = json.loads(run("keys create billing --json"))
    assert created["secret_key"] == f"ctx_key000000001_{SECRET}"
    assert created["key"]["identity"] == "billing"
    assert not access.requests[-1].grants


def test_keys_are_listed_rotated_and_revoked(access: Access) -> None:
    run("keys create billing")
    done = command_line.invoke(*["keys", "rotate", "key000000000", "--overlap", "2d"])
    assert done.stdout == f"ctx_key000000001_{SECRET}\n"
    assert "replace it everywhere by then" in " ".join(done.stderr.split())
    assert "revoked" in run("keys revoke key000000001")
    shown = run("keys list billing")
    assert "key000000000 billing expired 2025-11-26T16:00:00.000Z never" in shown
    assert "key000000001 billing revoked" in shown
    assert SECRET not in shown
    assert "ACCESS_NOT_FOUND" in run("keys revoke another", ExitCode.NOT_FOUND)
    assert run("keys list nobody") == "no keys"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("keys create b --role publisher", "for which projects?"),
        ("keys create b -p shop", "say for what a role is granted"),
        ("access grant b publisher", "for which projects?"),
        ("keys create b --ttl soon", "is no length of time"),
        ("roles set r", "Missing argument 'PERMISSION"),
        ("roles set r fly", "'fly' is not one of"),
        ("tenants set t --limit flights=3", "'flights' is no limit; there are events_per_second"),
        ("tenants set t --limit agents=-1", "write it as agents=NUMBER"),
        ("tenants set t --limit stored_bytes=infGiB", "=NUMBER, or with KiB"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(
    home: Path, words: str, problem: str
) -> None:
    assert problem in run(f"{words} --target 127.0.0.1:9", ExitCode.USAGE)


# -- grants ------------------------------------------------------------------------------


def test_grants_add_up_and_are_taken_away(access: Access) -> None:
    run("access grant billing publisher -p shop --data-key billing/* --tenant acme")
    run("access grant billing publisher -p shop --data-key billing/*")
    shown = run("access grant billing consumer -p * -p test")
    assert "billing, of tenant acme" in shown
    assert "publisher shop billing/*" in shown
    assert "consumer *, test all" in shown
    listed = run("access list")
    assert "billing acme publisher shop billing/*" in listed
    binding = json.loads(run("access list --json"))
    assert [grant["role"] for grant in binding["grants"]] == ["publisher", "consumer"]
    assert "no such grant" in run("access revoke billing publisher -p other", ExitCode.NOT_FOUND)
    assert "publisher" not in run("access revoke billing publisher -p shop")
    assert "no grants" in run("access revoke billing consumer")
    assert access.bindings == {}
    assert "no such grant" in run("access revoke billing consumer", ExitCode.NOT_FOUND)
    assert "ACCESS_NOT_FOUND" in run("access delete billing", ExitCode.NOT_FOUND)
    run("access grant billing consumer -p shop")
    assert "no grants any more" in run("access delete billing")


def test_can_says_why(access: Access) -> None:
    run("access grant billing publisher -p shop --data-key billing/*")
    run("access grant billing consumer -p shop")
    shown = run("can billing publish shop:billing/vat")
    assert shown.startswith("allowed: a grant allows it for the data keys billing/*")
    assert "yes billing publisher shop billing/*" in shown
    assert "no billing consumer shop all the role does not have the permission" in shown
    assert access.requests[-1].data_key == "billing/vat"
    denied = run("can billing GetState shop/billing/vat", ExitCode.NOT_GRANTED)
    assert denied.startswith("denied: no grant allows it")
    assert (access.requests[-2].project, access.requests[-2].data_key) == ("shop", "billing/vat")
    asked = run("can - read shop --group group:i:g --json", ExitCode.NOT_GRANTED)
    assert json.loads(asked)["allowed"] is False
    assert (access.requests[-2].identity, access.requests[-2].data_key) == ("", "")
    assert [*access.requests[-2].groups] == ["group:i:g"]


def test_where_access_is_off_everything_is_allowed(access: Access) -> None:
    access.is_off = True
    for who in ("-", "billing"):
        shown = run(f"can {who} erase shop")
        assert shown == "allowed: access is off there, and everybody may do everything"
    assert json.loads(run("can - erase shop --json"))["allowed"] is True


def test_a_permission_is_known_by_its_name(access: Access) -> None:
    said = run("can - fly shop", ExitCode.USAGE)
    assert "'fly' is no permission; there are publish, read, " in said
    assert not access.requests
    run("can - READ shop", ExitCode.NOT_GRANTED)
    assert access.requests[0].permission == access_pb2.PERMISSION_READ


def test_the_order_of_what_a_grant_is_for_does_not_matter(access: Access) -> None:
    run("access grant billing publisher -p shop -p test --data-key a/* --data-key b/*")
    run("access grant billing publisher -p test -p shop --data-key b/* --data-key a/*")
    (binding,) = access.bindings.values()
    assert len(binding.grants) == 1
    run("access revoke billing publisher -p test -p shop --data-key b/* --data-key a/*")
    assert not access.bindings


def test_a_key_does_not_take_grants_away(access: Access) -> None:
    run("access grant billing publisher -p shop")
    said = run("keys create billing --role consumer -p shop", ExitCode.USAGE)
    assert "billing has 1 grant already, which this would replace" in said
    assert "contex access grant" in said
    run("keys create billing --role publisher -p shop")
    run("keys create billing")
    assert [grant.role for grant in access.bindings["billing"].grants] == ["publisher"]
    run("keys create billing --role consumer -p shop --replace-grants")
    assert [grant.role for grant in access.bindings["billing"].grants] == ["consumer"]


def test_who_may_not_ask_gets_another_exit_code(access: Access) -> None:
    access.refusals = [(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", None)]
    assert "PERMISSION_DENIED" in run("can x read shop", ExitCode.DENIED)


def test_roles(access: Access) -> None:
    assert run("roles set curator publish state --description Curates") == "curator: publish, state"
    shown = run("roles")
    assert "publisher publish built in" in shown
    assert "curator publish, state Curates" in shown
    run("access grant b curator -p shop")
    assert "ACCESS_IN_USE" in run("roles delete curator", ExitCode.NOT_ALLOWED)
    run("access delete b")
    assert run("roles delete curator") == "role curator is deleted"


# -- tenants -----------------------------------------------------------------------------


def test_tenants_keep_what_is_not_given(access: Access) -> None:
    run("tenants set acme -p acme-* --limit events_per_second=1000 --limit stored_bytes=1048576")
    shown = run(
        "tenants set acme --limit agents=5 --limit events_per_second=0 --project-limit needs=9"
    )
    assert "projects acme-*" in shown
    assert "stored bytes 1.0 MiB agents 5" in shown
    assert "of each project needs 9" in shown
    assert "events a second" not in shown
    printed = command_line.invoke("tenants", "--json").stdout.splitlines()
    assert [json.loads(line)["name"] for line in printed] == ["default", "acme"]
    assert "acme acme-* stored bytes 1.0 MiB needs 9" in run("tenants")
    assert run("tenants delete acme") == "tenant acme is deleted"


def test_usage_is_drawn(access: Access) -> None:
    shown = run("usage acme")
    assert shown.startswith("tenant acme")
    assert "events a second 250.2 █████ 25% 1,000 3" in shown
    assert "stored bytes 3.0 MiB ███████████████ 75% 4.0 MiB" in shown
    assert "agents 7 none" in shown
    assert run("usage -p shop").startswith("project shop, of tenant default")
    assert json.loads(run("usage acme --json"))["usage"][0]["limit"] == 1000


def test_usage_is_that_of_the_callers_tenant(access: Access) -> None:
    assert run("usage").startswith("project default, of tenant default")
    access.tenant = "acme"
    assert run("usage").startswith("tenant acme")
    assert run("usage -p shop").startswith("project shop, of tenant default")


@pytest.mark.parametrize(
    ("text", "size"), [("1GiB", 1 << 30), ("1.5kib", 1536), ("2TiB", 2 << 40), ("7", 7)]
)
def test_limits_of_bytes_may_have_a_unit(access: Access, text: str, size: int) -> None:
    run(f"tenants set acme --limit stored_bytes={text}")
    assert access.tenants["acme"].limits.stored_bytes == size


def test_agents_that_are_not_there_are_not_given(home: Path) -> None:
    with access_service.serving() as (target, _, agents):
        agents.assigned_count = 0
        words = f"agents assign billing bill* -p shop --target {target} --api-key-file key"
        (home / "key").write_text(ADMIN_KEY)
        said = run(words, ExitCode.NOT_FOUND)
        assert "no agent bill* that is nobody's; --reassign gives also those of others" in said
        said = run(f"{words} --reassign", ExitCode.NOT_FOUND)
        assert "project shop has no agent bill*; see contex agents" in said


# -- what may not be seen ----------------------------------------------------------------


def test_what_is_not_shown_is_not_said_to_be_nothing(access: Access) -> None:
    shown = run("projects")
    assert "shop 7 70 bytes" in shown
    assert "other not shown not shown" in shown
    assert "not shown to you" in run("projects encryption shop", ExitCode.DENIED)
    assert "exists yes; the rest is not shown to you" in run("projects show shop")
    access.hidden = False
    assert "it is too old" in run("projects encryption shop", ExitCode.UNSUPPORTED)


def test_nothing_is_asked_that_would_be_refused(access: Access) -> None:
    def asked() -> list[str]:
        names = [type(request).DESCRIPTOR.name for request in access.requests]
        access.requests.clear()
        return names

    said = run("match --thresholds payments", ExitCode.USAGE)
    assert "the project's default is told to those only who may see all" in said
    assert asked() == ["WhoAmIRequest", "CheckAccessRequest"]
    run("access grant root publisher -p *")
    asked()
    run("match --thresholds payments")
    assert asked()[2] == "GetMatchingStatusRequest"
    access.is_off = True
    run("match --thresholds payments")
    assert asked()[:2] == ["WhoAmIRequest", "GetMatchingStatusRequest"]


@pytest.mark.parametrize("may", [False, True])
async def test_how_far_the_index_is_is_not_asked_by_who_may_not_know(
    access: Access, monkeypatch: pytest.MonkeyPatch, may: bool
) -> None:
    monkeypatch.setattr(indexing, "_ASK_EVERY_S", 0.0)
    async with contex.AsyncClient(os.environ["CONTEX_TARGET"]) as client:
        if may:
            await client.access.set_binding("root", [contex.Grant("publisher", ("*",))])
        session = SimpleNamespace(client=client, project="shop", is_limited=False)

        async def slow() -> None:
            awaited = "GetMatchingStatusRequest" if may else "CheckAccessRequest"
            while awaited not in (names := [type(r).DESCRIPTOR.name for r in access.requests]):
                await asyncio.sleep(0.01)
            assert ("GetMatchingStatusRequest" in names) is may
            raise contex.DeadlineExceeded("late", grpc.StatusCode.DEADLINE_EXCEEDED)

        with pytest.raises(contex.DeadlineExceeded):
            await indexing.when_indexed(cast("Session", session), slow)
        names = [type(request).DESCRIPTOR.name for request in access.requests]
        assert ("GetMatchingStatusRequest" in names) is may


def test_agents_are_given_to_an_identity(access: Access) -> None:
    assert run("agents assign billing bill* -p shop --reassign") == "3 agents given to billing"
    request = access.requests[-1]
    assert (request.identity, request.agent_ids, request.reassign) == ("billing", "bill*", True)

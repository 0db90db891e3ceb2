"""Arguments and options, without a server: what is refused, and how."""

from __future__ import annotations

import re
import socket
import subprocess
import sys

import pytest
from contex_cli.commands import COMMANDS, GROUPS, help_page
from contex_cli.exits import ExitCode

from tests import command_line

# Nothing listens on port 9 of the loopback: what gets as far as connecting ends with 6.
NOBODY = ["--target", "127.0.0.1:9", "--timeout", "0.2"]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONTEX_TARGET", "CONTEX_PROJECT", "CONTEX_PUBLISHER", "CONTEX_DEBUG"):
        monkeypatch.delenv(name, raising=False)


def invoke(*arguments: str) -> tuple[int, str]:
    done = command_line.invoke(*arguments)
    return done.exit_code, done.stderr


def test_help_lists_the_commands_and_the_exit_codes() -> None:
    done = command_line.invoke("--help")
    assert (done.exit_code, done.stdout) == (ExitCode.OK, help_page(""))
    names = {name.partition(" ")[0] for name in COMMANDS}
    assert all(f"\n  {name} " in done.stdout for name in names)
    assert all(f"{code.value:<4}{code.meaning}" in done.stdout for code in ExitCode)
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name: str) -> None:
    done = command_line.invoke(*name.split(), "-h")
    assert done.exit_code == ExitCode.OK
    assert done.stdout.startswith(f"Usage: contex {name} [OPTIONS]")
    assert COMMANDS[name][1] in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize("group", [*GROUPS, "agents"])
def test_a_group_lists_its_commands(group: str) -> None:
    page = command_line.invoke(group, "--help").stdout
    for name, (_, help) in COMMANDS.items():
        if name.startswith(f"{group} "):
            assert re.search(rf"^  {name.split()[1]} +{re.escape(help)}$", page, re.MULTILINE)


def test_without_a_command_the_help_goes_to_stderr() -> None:
    for words in ([], ["feedback"]):
        done = command_line.invoke(*words)
        assert (done.exit_code, done.stdout) == (ExitCode.USAGE, "")
        assert "Commands:" in done.stderr


def test_the_version() -> None:
    assert re.fullmatch(r"contex \d+\.\d+\.\d+\n", command_line.invoke("--version").stdout)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["publish"], "KEY"),
        (["publish", "k"], "VALUE"),
        (["publish", "k", "{oops"], "looks like JSON"),
        (["publish", "k", "@/does/not/exist"], "can't read"),
        (["publish", "k", "1", "--meta", "x"], "--meta"),
        (
            ["publish", "k", "1", "--durability", "hope"],
            "not one of 'memory', 'fsync'",
        ),
        (["publish", "k", "1", "--expected-revision", "-1"], "expected-revision"),
        (["publish", "k", "1", "--delete"], "takes no VALUE"),
        (["publish", "k", "--delete", "-d", "x"], "takes no --description"),
        (["publish", "k", "--stream", "-"], "KEY goes into the lines"),
        (["publish", "--stream", "-", "--meta", "a=b"], "--meta goes into the lines"),
        (["publish", "--stream", "/does/not/exist", *NOBODY], "can't read"),
        (["events", "--since", "then"], "neither a sequence"),
        (["replay", "--until", "01/02/2026"], "neither a sequence"),
        (["tail", "--since", "2h ago"], "--since"),
        (["state", "--at", "then"], "'yesterday 15:30'"),
        (["diff"], "BASE"),
        (["diff", "then"], "neither a sequence"),
        (["history"], "KEY"),
        (["history", "k", "--revision", "0"], "revision"),
        (["history", "k", "--revision", "1", "--at", "5-0"], "--at"),
        (["knew", "a", "--near-misses", "101"], "near-misses"),
        (["deliveries"], "give one of the two"),
        (["deliveries", "--event", "5-0", "--agent", "a"], "give one of the two"),
        (["deliveries", "--event", "5-0", "--since", "2h ago"], "go with --agent"),
        (["audit", "--action", "seen"], "--action"),
        (["audit", "--output", "records.txt"], "csv, jsonl or parquet"),
        (["audit", "--format", "parquet"], "name a file"),
        (["audit", "--format", "csv", "--json"], "--json"),
        (["activity", "--bucket", "soon"], "not a length"),
        (["activity", "--bucket", "0m"], "not a length"),
        (["activity", "--by", "colour"], "--by"),
        (["events", "--limit", "-1"], "limit"),
        (["tail", "-n", "x"], "lines"),
        (["register", "a"], "--need"),
        (["register", "a", "--needs-file", "/does/not/exist"], "can't read"),
        (["match"], "QUESTION"),
        (["match", "x", "--format", "xml"], "--format"),
        (["match", "x", "--as-of", "then"], "neither a sequence"),
        (["explain", "x"], "NEED and KEY"),
        (["backtest"], "NEED"),
        (["backtest", "x", "--since", "then"], "neither a sequence"),
        (["feedback", "give", "a", "1-0"], "--useful"),
        (["agents", "-p", "x", "show", "a"], "(show a)"),
        (["demo", "--needs", "x"], "go together"),
        (["serve", "--port", "99999"], "--port 99999"),
        (["serve", "--host", "192.0.2.1"], "--insecure"),
        (["nonsense"], "nonsense"),
        (["--nonsense"], "nonsense"),
        (["feedback", "nonsense"], "nonsense"),
        (["events", "--nonsense"], "--nonsense"),
        (["events", "more"], "more"),
        (["import", "/does/not/exist"], "can't read"),
        (["import", "x", "--remap", "=new"], "OLD=NEW"),
        (["import", "x", "--redact", "price"], "[GLOB:]/POINTER"),
        (["import", "x", "--redact-hash"], "needs --redact"),
        (
            ["import", __file__, "--redact", "/a", "--redact-hash", "--redact-with", "1"],
            "contradicts",
        ),
        (["clone", "one"], "[HOST:PORT/]PROJECT"),
        (["export"], "--output"),
        (["export", "-o", "x", "--include", "secrets"], "'agents', 'vectors', 'settings'"),
        (["retention", "set", "--store-days", "-1"], "--store-days"),
        (["remove", "--before", "1-0"], "--reason"),
        (["erase", "--reason", "x"], "--subject"),
        (["health", "--timeout", "0"], "--timeout"),
        (["health", "--target", "127.0.0.1:115587"], "'127.0.0.1:115587' is not HOST:PORT"),
        (["health", "--target", ""], "'' is not HOST:PORT"),
        (["clone", "there/p", "q"], "'there' is not HOST:PORT"),
        (["agents", "sho"], "No such command 'sho'"),
        (["agents", "update", "a"], "nothing to change"),
        (["retention", "set"], "nothing to change"),
        (["match", "q", "--top", "0"], "--top"),
        (["register", "a", "-n", "x", "--max-matches", "101"], "--max-matches"),
        (["export", "-o", "/does/not/exist/x"], "can't use '/does/not/exist"),
    ],
)
def test_wrong_use_is_told_without_a_trace(arguments: list[str], told: str) -> None:
    code, error = invoke(*arguments)
    assert code == ExitCode.USAGE
    assert told in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["health"],
        ["publish", "k", "1"],
        ["publish", "k", "--delete"],
        ["events"],
        ["replay"],
        ["tail"],
        ["tail", "-f"],
        ["register", "a", "--need", "x"],
        ["listen", "a"],
        ["match", "x"],
        ["explain", "x", "k"],
        ["backtest", "x"],
        ["backtest", "x", "--threshold", "0.5"],
        ["feedback", "give", "a", "1-0", "--useful"],
        ["feedback", "export"],
        ["matching"],
        ["matching", "--watch"],
        ["state"],
        ["state", "k", "--at", "2h ago"],
        ["diff", "yesterday"],
        ["history", "k"],
        ["history", "k", "--revision", "1"],
        ["blame", "k"],
        ["knew", "a", "--at", "15:30"],
        ["deliveries", "--agent", "a"],
        ["audit"],
        ["audit", "--format", "csv"],
        ["stats"],
        ["activity"],
        ["agents"],
        ["agents", "show", "a"],
        ["agents", "update", "a", "--threshold", "0.5"],
        ["agents", "unregister", "a"],
        ["agents", "ack", "a", "1-0"],
    ],
)
def test_a_server_that_is_not_there(arguments: list[str]) -> None:
    code, error = invoke(*arguments, *NOBODY)
    assert code == ExitCode.UNAVAILABLE
    assert error.splitlines()[-1].startswith("contex: ")
    assert "Traceback" not in error


def test_an_unknown_outcome_tells_how_to_repeat() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        options = ["--request-id", "r-1", "--target", target, "--timeout", "0.3"]
        code, error = invoke("publish", "k", "1", *options)
    assert code == ExitCode.UNAVAILABLE
    assert "--request-id r-1 is safe" in error


def loaded_by(*arguments: str) -> set[str]:
    """The modules that a command imports, in a process of its own."""
    program = (
        "import sys; from contex_cli import main; "
        f"main({list(arguments)}); print('\\n', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_help_loads_next_to_nothing() -> None:
    loaded = loaded_by("--help")
    assert {name for name in loaded if name.startswith("contex_") or name == "contex"} == {
        "contex_cli",
        "contex_cli.commands",
        "contex_cli.exits",
    }
    assert loaded.isdisjoint({"asyncio", "grpc", "inspect", "orjson", "rich", "textwrap"})


def test_health_loads_only_the_client() -> None:
    loaded = loaded_by("health", *NOBODY)
    assert "grpc" in loaded
    assert loaded.isdisjoint({"rich", "orjson", "yaml", "dateparser", "contex_cli.options"})


def test_publishing_does_not_load_the_server() -> None:
    loaded = loaded_by("publish", "k", "1", *NOBODY)
    assert "grpc" in loaded
    assert loaded.isdisjoint({"faiss", "numpy", "onnxruntime", "redis", "contex_server"})


def test_serve_says_how_to_install_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "contex_server", None)
    code, error = invoke("serve")
    assert code == ExitCode.UNEXPECTED
    assert "pip install contex-server" in error
    assert error.count("\n") == 1


def test_demo_says_where_the_demo_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not p.endswith("examples/demo")])
    for name in [name for name in sys.modules if name.startswith("contex_demo")]:
        monkeypatch.delitem(sys.modules, name)
    code, error = invoke("demo")
    assert code == ExitCode.UNEXPECTED
    assert "examples/demo" in error


@pytest.mark.parametrize("command", [["remove", "--before", "1-0"], ["erase", "--key", "k"]])
def test_what_is_for_good_is_asked_first(command: list[str]) -> None:
    arguments = [*command, "--reason", "x", *NOBODY]
    for answer in ("", "n\n", "yo\n"):
        done = command_line.invoke(*arguments, stdin=answer)
        assert done.exit_code == ExitCode.USAGE
        assert "not confirmed; --yes does not ask" in done.stderr
        assert done.stdout.endswith(" [y/N]: ")


def test_yes_goes_on() -> None:
    arguments = ["remove", "--before", "1-0", "--reason", "x", *NOBODY]
    assert command_line.invoke(*arguments, stdin="y\n").exit_code == ExitCode.UNAVAILABLE
    assert command_line.invoke(*arguments, "--yes").exit_code == ExitCode.UNAVAILABLE

"""Arguments and options, without a server: what is refused, and how."""

from __future__ import annotations

import subprocess
import sys

import pytest
from contex_server.cli.application import application
from contex_server.cli.exits import ExitCode
from typer.testing import CliRunner

COMMANDS = [
    *("serve", "health", "publish", "events", "replay", "tail", "register", "listen"),
    *("state", "diff", "history", "blame", "knew", "deliveries", "audit", "stats", "activity"),
    *("match", "explain", "backtest", "matching", "demo"),
]
AGENT_COMMANDS = ["show", "update", "unregister", "ack"]
# Nothing listens on port 9 of the loopback: what gets as far as connecting ends with 6.
NOBODY = ["--target", "127.0.0.1:9", "--timeout", "0.2"]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONTEX_TARGET", "CONTEX_PROJECT", "CONTEX_PUBLISHER", "CONTEX_DEBUG"):
        monkeypatch.delenv(name, raising=False)


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(application, arguments)
    return result.exit_code, result.stderr


def test_help_lists_the_commands_and_the_exit_codes() -> None:
    result = CliRunner().invoke(application, ["--help"])
    assert result.exit_code == ExitCode.OK
    assert all(f"\n  {command} " in result.stdout for command in [*COMMANDS, "agents", "feedback"])
    assert all(f"{code.value:<4}{code.meaning}" in result.stdout for code in ExitCode)


@pytest.mark.parametrize(
    "command",
    [[name] for name in COMMANDS]
    + [["agents", name] for name in AGENT_COMMANDS]
    + [["feedback", "give"], ["feedback", "export"]],
)
def test_each_command_has_help(command: list[str]) -> None:
    result = CliRunner().invoke(application, [*command, "-h"])
    assert result.exit_code == ExitCode.OK
    # The list of commands shows only what fits; a command must be described in one line.
    parent = CliRunner().invoke(application, [*command[:-1], "--help"]).stdout
    (line,) = (x for x in parent.splitlines() if x.startswith(f"  {command[-1]} "))
    assert not line.endswith("...")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["publish"], "KEY"),
        (["publish", "k"], "VALUE"),
        (["publish", "k", "{oops"], "looks like JSON"),
        (["publish", "k", "@/does/not/exist"], "can't read"),
        (["publish", "k", "1", "--meta", "x"], "--meta"),
        (["publish", "k", "1", "--durability", "hope"], "none of memory, fsync, replicated"),
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
        (["activity", "--bucket", "soon"], "no length"),
        (["activity", "--bucket", "0m"], "no length"),
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
        (["agents", "-p", "x", "show", "a"], "after 'show'"),
        (["demo", "--needs", "x"], "go together"),
        (["serve", "--port", "99999"], "--port 99999"),
        (["serve", "--host", "192.0.2.1"], "--insecure"),
        (["nonsense"], "nonsense"),
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
    code, error = invoke("publish", "k", "1", "--request-id", "r-1", *NOBODY)
    assert code == ExitCode.UNAVAILABLE
    assert "--request-id r-1 is safe" in error


def test_the_command_line_starts_without_heavy_imports() -> None:
    heavy = [
        "grpc",
        "faiss",
        "numpy",
        "onnxruntime",
        "pydantic_settings",
        "redis",
        "rich.table",
        "yaml",
        "dateparser",
        "matplotlib",
    ]
    program = (
        "import sys; import contex_server.cli.application; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_publishing_does_not_load_the_server() -> None:
    heavy = ["faiss", "numpy", "onnxruntime", "redis", "contex_server.app"]
    program = (
        "import sys; from typer.testing import CliRunner; "
        "from contex_server.cli.application import application; "
        f"CliRunner().invoke(application, ['publish', 'k', '1', *{NOBODY}]); "
        f"assert 'grpc' in sys.modules; print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

"""The command line against a real server process: what each command prints and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from contex_cli.exits import ExitCode

from tests import command_line

CONTEX = [sys.executable, "-m", "contex_server"]
API_CONFIG = '{"base_url":"https://api.example.com","timeout":30}'
MATCHED_KEYS = {"score", "matches", "payload_omitted", "backfilled"}
EVENT_KEYS = {
    "sequence",
    "time",
    "event_type",
    "data_key",
    "revision",
    "previous_sequence",
    "publisher",
    "description",
    "content_type",
    "metadata",
    "opaque",
    "payload",
}


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def record(self) -> dict[str, Any]:
        (record,) = self.records
        return record


@dataclass(frozen=True)
class Contex:
    """Commands for one project of the server."""

    environment: dict[str, str]
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(self, *arguments: str, stdin: str = "") -> Done:
        """Runs a command in this process, which saves the half second of starting another."""
        return Done(*command_line.invoke(*arguments, env=self.environment, stdin=stdin))

    def ok(self, *arguments: str, stdin: str = "") -> Done:
        done = self(*arguments, stdin=stdin)
        assert (done.code, done.err) == (ExitCode.OK, "")
        return done

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Starts a command in a process of its own."""
        process = subprocess.Popen(
            [*CONTEX, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **self.environment},
            **options,
        )
        self.processes.append(process)
        return process


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    """A server on a free port."""
    with TemporaryDirectory(prefix="ctx") as directory:
        log = Path(directory, "log")
        with log.open("wb") as file:
            server = subprocess.Popen(
                [*CONTEX, "serve", "--port", "0", "--data-dir", directory, "--log-format", "json"],
                stdout=file,
                stderr=file,
            )
        try:
            yield f"127.0.0.1:{_port(server, log)}"
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(10) == 0


def _port(server: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        for line in log.read_text().splitlines():
            record = json.loads(line)
            if record["event"] == "serving":
                port: int = record["port"]
                return port
        time.sleep(0.05)
    raise AssertionError(f"not serving:\n{log.read_text()}")


@pytest.fixture
def contex(target: str, request: pytest.FixtureRequest) -> Iterator[Contex]:
    """Commands for a project of the test's own."""
    project = re.sub(r"[^\w.-]", ".", request.node.name)[:64]
    commands = Contex({"CONTEX_TARGET": target, "CONTEX_PROJECT": project, "CONTEX_DEBUG": ""})
    yield commands
    for process in commands.processes:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def publish(contex: Contex, *arguments: str) -> dict[str, Any]:
    return contex.ok("publish", *arguments, "--json").record


def test_health(contex: Contex, target: str) -> None:
    assert contex.ok("health").out.startswith(f"SERVING  {target}  ")
    record = contex.ok("health", "--service", "contex.v1.AgentService", "--json").record
    assert (record["status"], record["target"]) == ("SERVING", target)
    assert record["latency_ms"] > 0
    assert contex("health", "--service", "nobody.knows").code == ExitCode.NOT_FOUND


def test_publish_and_list(contex: Contex) -> None:
    first = contex.ok(
        *("publish", "api_config", API_CONFIG, "-d", "API endpoint and timeouts"),
        *("--meta", "team=core", "--publisher", "ops", "--request-id", "r-1", "--json"),
    ).record
    assert first.keys() == {
        "sequence",
        "data_key",
        "revision",
        "durability",
        "duplicate",
        "request_id",
    }
    assert (first["revision"], first["durability"], first["duplicate"]) == (1, "FSYNC", False)
    assert contex.ok("publish", "note", "hello").out.startswith("note revision 1  ")

    events = contex.ok("events", "--json").records
    assert [event["data_key"] for event in events] == ["api_config", "note"]
    assert events[0].keys() == EVENT_KEYS
    assert events[0]["payload"] == json.loads(API_CONFIG)
    assert events[0]["metadata"] == {"team": "core"}
    assert events[0]["publisher"] == "ops"
    assert events[1].keys() == EVENT_KEYS - {"payload"} | {"payload_text"}

    table = contex.ok("events").out
    assert "api_config" in table
    assert "hello" in table


def test_a_description_stays_until_it_is_removed(contex: Contex, tmp_path: Path) -> None:
    for options in (["-d", "Prices in Europe"], [], ["-d", ""], []):
        publish(contex, "tariff", "1", *options)
    lines = '{"data_key":"tariff","data":2,"description":"Tolls"}\n{"data_key":"tariff","data":3}\n'
    path = tmp_path / "lines"
    path.write_text(lines)
    assert contex("publish", "--stream", str(path)).code == ExitCode.OK
    printed = contex.ok("events", "--json")
    described = ["Prices in Europe", "Prices in Europe", "", "", "Tolls", "Tolls"]
    assert [event["description"] for event in printed.records] == described
    # What was printed is published as it was.
    path.write_text(printed.out)
    assert contex("publish", "--stream", str(path), "-p", "again").code == ExitCode.OK
    again = contex.ok("events", "-p", "again", "--json").records
    assert [event["description"] for event in again] == described
    assert contex("publish", "k", "--delete", "-d", "").code == ExitCode.USAGE


def test_a_fact_that_expired_after_it_was_printed_does_not_come_back(
    contex: Contex, tmp_path: Path
) -> None:
    publish(contex, "lasts", "1")
    publish(contex, "once", "1", "--valid-for", "1s")
    publish(contex, "replaced", "1")
    publish(contex, "replaced", "2", "--valid-for", "1s")
    path = tmp_path / "lines"
    path.write_text(contex.ok("events", "--json").out)
    time.sleep(1.1)
    done = contex("publish", "--stream", str(path), "-p", "later")
    assert (done.code, done.out.split("  up")[0]) == (ExitCode.OK, "published 3  refused 0")
    told = "expired facts left out (a deletion where one replaced another): 2\n"
    assert done.err.endswith(told)
    state = contex.ok("state", "-p", "later", "--json").records
    assert [datum.get("data_key") for datum in state if "data_key" in datum] == ["lasts"]
    # Nor does the line harm that says so.
    path.write_text(contex.ok("events", "--json").out)
    assert contex("publish", "--stream", str(path), "-p", "later").code == ExitCode.OK


def test_events_that_are_written_out_are_told_apart(contex: Contex) -> None:
    contex.ok("register", "writer", "--need", "a door")
    publish(contex, "door", "", "-d", "A door", "--content-type", "text/plain")
    contex.ok("publish", "door", "--delete")

    def written(form: str) -> str:
        listen = ("listen", "writer", "--after", "0", "--count", "2")
        return contex.ok(*listen, "--format", form).out

    first, second = written("json").splitlines()
    assert json.loads(first)["data"] == ""
    assert json.loads(second) == {"data_key": "door", "deleted": True}
    first, second = written("yaml").split("---\n")
    assert (first[:14], second) == ("data_key: door", "data_key: door\ndeleted: true\n")
    assert written("markdown").endswith("\n\n## door\n\n(deleted)\n")


def test_names_of_any_printable_text(contex: Contex) -> None:
    names = ["PDF&URL Tool", "Größen/übersicht", "価格/東京", "a  b", "a*", "[b]", ":smile:"]
    for name in names:
        publish(contex, name, "1", "--type", name, "--publisher", name)
    contex.ok("publish", "--", "-x", "1")
    table = contex.ok("events").out
    for name in names:
        assert name in table
        assert name in contex.ok("history", name).out
        (shown,) = contex.ok("events", "--type", name, "--publisher", name, "--json").records
        assert shown["data_key"] == name
    publish(contex, "ab", "1")
    assert contex.ok("state", "a*", "--json").out.count("data_key") == 3
    assert "a* " in contex.ok("state", r"a\*").out
    assert contex.ok("state", r"a\*", "--json").out.count("data_key") == 1


def test_a_request_id_appends_once(contex: Contex) -> None:
    first = publish(contex, "k", "1", "--request-id", "r-1")
    again = publish(contex, "k", "1", "--request-id", "r-1")
    assert (first["duplicate"], again["duplicate"]) == (False, True)
    assert first["sequence"] == again["sequence"]


def test_an_expected_revision(contex: Contex) -> None:
    publish(contex, "k", "1", "--expected-revision", "0")
    done = contex("publish", "k", "2", "--expected-revision", "0")
    assert done.code == ExitCode.CONFLICT
    assert "revision 1" in done.err
    assert "[REVISION_CONFLICT]" in done.err
    assert publish(contex, "k", "2", "--expected-revision", "1")["revision"] == 2


def test_a_deletion(contex: Contex) -> None:
    publish(contex, "k", "1")
    assert publish(contex, "k", "--delete")["revision"] == 2
    deleted = contex.ok("events", "--type", "data_deleted", "--json").record
    assert "payload" not in deleted


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["publish", "bad\nkey", "1"], ExitCode.INVALID_ARGUMENT, "KEY: must"),
        (["publish", "k", "1", "-p", "bad project"], ExitCode.INVALID_ARGUMENT, "project"),
        (["publish", "k", "1", "--type", "data_deleted"], ExitCode.INVALID_ARGUMENT, "RESERVED"),
        (["register", "a", "--need", " "], ExitCode.INVALID_ARGUMENT, "--need 1: must"),
        (["register", "a", "--need", "x", "--threshold", "2"], ExitCode.INVALID_ARGUMENT, "thresh"),
        (["agents", "show", "nobody"], ExitCode.NOT_FOUND, "AGENT_NOT_FOUND"),
        (["agents", "unregister", "nobody"], ExitCode.NOT_FOUND, "AGENT_NOT_FOUND"),
        (["agents", "update", "nobody", "--threshold", ".5"], ExitCode.NOT_FOUND, "AGENT_NOT"),
        (["agents", "ack", "nobody", "0"], ExitCode.NOT_FOUND, "AGENT_NOT_FOUND"),
        (["match", "x"], ExitCode.NOT_FOUND, "PROJECT_NOT_FOUND"),
        (["get", "k"], ExitCode.NOT_FOUND, "PROJECT_NOT_FOUND"),
        (
            ["projects", "delete", "nosuch", "--reason", "x", "--yes"],
            ExitCode.NOT_FOUND,
            "PROJECT_N",
        ),
        (["listen", "nobody"], ExitCode.NOT_FOUND, "AGENT_NOT_FOUND"),
        (["events", "--since", "99999999999999-0"], ExitCode.OUT_OF_RANGE, "IN_FUTURE"),
        (["replay", "--since", "99999999999999-0"], ExitCode.OUT_OF_RANGE, "IN_FUTURE"),
    ],
)
def test_refusals(contex: Contex, arguments: Sequence[str], code: ExitCode, told: str) -> None:
    if code is ExitCode.OUT_OF_RANGE:
        publish(contex, "k", "1")
    done = contex(*arguments)
    assert done.code == code
    assert told in done.err
    assert done.err.startswith("contex: ")
    assert done.err.count("\n") == 1


def test_a_project_is_deleted_by_who_types_its_name(contex: Contex) -> None:
    publish(contex, "k", '"of the shop"', "-p", "closing")
    got = contex("get", "k", "-p", "closing")
    assert "of the shop" in got.out
    assert contex("get", "l", "-p", "closing").code == ExitCode.NOT_FOUND
    listed = [json.loads(line) for line in contex("projects", "--json").out.splitlines()]
    assert "closing" in [project["project"] for project in listed]
    delete = ("projects", "delete", "closing", "--reason", "over")
    assert contex(*delete).code == ExitCode.USAGE
    assert contex(*delete, "--yes").code == ExitCode.OK
    shown = contex("projects", "show", "closing", "--json")
    assert shown.code == ExitCode.NOT_FOUND
    assert json.loads(shown.out)["deletion"]["reason"] == "over"


def test_a_legal_hold_is_no_conflict(contex: Contex) -> None:
    publish(contex, "k", "1")
    contex.ok("retention", "set", "--legal-hold")
    done = contex("erase", "--key", "k", "--reason", "asked", "--yes")
    assert (done.code, "[LEGAL_HOLD]" in done.err) == (ExitCode.NOT_ALLOWED, True)


def test_an_import_without_vectors_differs_in_nothing(contex: Contex, tmp_path: Path) -> None:
    publish(contex, "k", "1", "--description", "a number")
    file, copied = str(tmp_path / "file"), ("-p", "copied")
    assert contex("export", "-o", file).code == ExitCode.OK
    assert contex("import", file, *copied).code == ExitCode.OK
    done = contex("verify", *copied)
    assert done.code == ExitCode.OK
    assert "1 missing, computed when they are needed" in done.out
    findings = contex("verify", *copied, "--json").records
    assert [finding.get("kind") for finding in findings] == ["vector", None]
    assert "1 missing, computed now" in contex("verify", *copied, "--repair").out
    assert "missing" not in contex("verify", *copied).out


@pytest.mark.parametrize("command", ["export -o", "feedback export", "activity --html"])
def test_a_mistyped_project_leaves_no_file(contex: Contex, command: str, tmp_path: Path) -> None:
    done = contex(*command.split(), str(tmp_path / "x.svg"), "-p", "mistyped")
    assert done.code == ExitCode.NOT_FOUND
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command", ["export -o", "audit --format csv -o", "feedback export", "activity --html"]
)
def test_a_symlink_is_followed_and_a_pipe_is_written_into(
    contex: Contex, command: str, tmp_path: Path
) -> None:
    publish(contex, "k", "1")
    pipe, link, target = tmp_path / "pipe", tmp_path / "link.svg", tmp_path / "target"
    os.mkfifo(pipe)
    link.symlink_to(target)
    target.write_text("old")
    before = target.stat().st_ino
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        for path in (pipe, link):
            assert contex(*command.split(), str(path)).code == ExitCode.OK
        came = os.read(reader, 65_536)
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert target.stat().st_ino != before, "not replaced at once"
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "link.svg", "target"}
    assert bool(came) is (command != "feedback export")  # there are no judgements
    assert target.read_text(errors="replace") != "old"


def test_an_import_reads_stdin_and_pipes(contex: Contex, tmp_path: Path) -> None:
    publish(contex, "k", "1")
    file, pipe = tmp_path / "file", tmp_path / "pipe"
    assert contex("export", "-o", str(file)).code == ExitCode.OK
    os.mkfifo(pipe)
    from_stdin = contex.start("import", "-", "-p", "from-stdin", stdin=subprocess.PIPE)
    assert from_stdin.stdin is not None
    from_stdin.stdin.buffer.write(file.read_bytes())
    from_pipe = contex.start("import", str(pipe), "-p", "from-pipe")
    pipe.write_bytes(file.read_bytes())
    for process in (from_stdin, from_pipe):
        assert re.search(r"imported +1\b", process.communicate(timeout=60)[0])
    for project in ("from-stdin", "from-pipe"):
        assert contex.ok("get", "k", "-p", project).out == contex.ok("get", "k").out


def test_one_of_a_thing_is_not_several(contex: Contex, tmp_path: Path) -> None:
    publish(contex, "k", "1")
    file = str(tmp_path / "file")
    told = {
        "projects": contex(
            "projects", "--name", contex.ok("projects", "--json").records[0]["project"]
        ),
        "replay": contex("replay", "--key", "k"),
        "state": contex("state", "--key", "k*"),
        "export": contex("export", "-o", file),
        "import": contex("import", file, "-p", "one-event"),
        "verify": contex("verify"),
        "backtest": contex("backtest", "number"),
        "activity": contex("activity"),
        "cut": contex("events", "-n", "1", "-p", "one-event"),
    }
    for name, done in told.items():
        assert not re.search(
            r"(?<![\d,.])1 (events|data(?! key\b)|projects)\b", done.out + done.err
        ), name
    assert "\n1 project\n" in told["projects"].out
    assert "replayed 1 event in " in told["replay"].err
    assert "1 datum, as of " in told["state"].out


def test_filters_ranges_and_orders(contex: Contex) -> None:
    places = [publish(contex, f"k{n}", str(n), "--publisher", f"p{n % 2}") for n in range(4)]
    sequences = [place["sequence"] for place in places]

    def keys(*arguments: str) -> list[str]:
        return [event["data_key"] for event in contex.ok(*arguments, "--json").records]

    assert keys("events", "--since", sequences[1]) == ["k2", "k3"]
    assert keys("events", "--until", sequences[1]) == ["k0", "k1"]
    assert keys("events", "--backwards", "--limit", "2") == ["k3", "k2"]
    assert keys("events", "--key", "x*") == []
    assert keys("events", "--key", "k1", "--key", "?3") == ["k1", "k3"]
    assert keys("events", "--publisher", "p0", "--until", "2999-01-01T00:00:00Z") == ["k0", "k2"]
    future = contex("events", "--since", "2999-01-01T00:00:00Z", "--json")
    assert (future.code, future.records) == (ExitCode.OK, [])
    assert future.err == "nothing yet: 2999-01-01T00:00:00.000Z is in the future\n"
    assert keys("tail", "-n", "2") == ["k2", "k3"]
    assert keys("tail", "-n", "1", "--key", "k0") == ["k0"]
    replayed = contex("replay", "--backwards", "--until", sequences[2], "--json")
    assert [event["data_key"] for event in replayed.records] == ["k2", "k1", "k0"]
    assert replayed.err.startswith("replayed 3 events in ")


def test_bulk_and_back(contex: Contex) -> None:
    lines = [{"data_key": f"k{n % 7}", "data": {"n": n}, "description": "d"} for n in range(600)]
    text = "\n".join(map(json.dumps, lines))
    process = contex.start("publish", "--stream", "-", "--json", stdin=subprocess.PIPE)
    out, err = process.communicate(text, timeout=20)
    assert (process.returncode, err) == (ExitCode.OK, "")
    totals = json.loads(out)
    assert (totals["published"], totals["refused"]) == (600, 0)

    replayed = contex("replay", "--json").out
    assert [json.loads(line)["payload"]["n"] for line in replayed.splitlines()] == [*range(600)]

    process = contex.start("publish", "--stream", "-", "-p", "copy", stdin=subprocess.PIPE)
    out, err = process.communicate(replayed, timeout=20)
    assert (process.returncode, err.startswith("published 600 events in ")) == (ExitCode.OK, True)
    assert len(contex.ok("events", "-p", "copy", "--limit", "0", "--json").records) == 600


def test_bulk_reports_what_it_refuses(contex: Contex, tmp_path: Path) -> None:
    good, bad = '{"data_key":"k","data":1}', '{"data_key":"bad key ","data":1}'
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join([good] * 256 + [bad] + [good] * 3) + "\n")
    done = contex("publish", "--stream", str(path))
    assert done.code == ExitCode.INVALID_ARGUMENT
    assert done.out.startswith("published 256  refused 4  ")
    assert "contex: lines 257-260 refused: " in done.err

    path.write_text(f"{good}\n{good}\noops\n{good}")
    done = contex("publish", "--stream", str(path))
    assert done.code == ExitCode.USAGE
    assert done.out.startswith("published 2  refused 0  ")
    assert "contex: line 3: not JSON" in done.err


def test_a_folder_is_published_under_its_paths(contex: Contex, tmp_path: Path) -> None:
    for name, text in {
        "a.json": '{"n":1}',
        "docs/b.md": "# B",
        "docs/empty.txt": "",
        ".hidden": "x",
        ".git/x": "x",
        "bad.json": "{oops",
        "white /c.txt": "c",
        " spaced.txt": "refused by the service",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "link").symlink_to(tmp_path / "a.json")
    (tmp_path / "linked").symlink_to(tmp_path / "docs")
    done = contex("publish", "--dir", str(tmp_path))
    assert done.code == ExitCode.INVALID_ARGUMENT
    assert done.out.startswith("published 4  refused 1  ")
    assert "' spaced.txt' refused: " in done.err
    assert "'bad.json' not published: " in done.err
    assert "regular file: 'link'" in done.err
    assert "regular file: 'linked'" in done.err
    events = contex.ok("events", "--json").records
    assert {event["data_key"]: event["content_type"].partition(";")[0] for event in events} == {
        "a.json": "application/json",
        "docs/b.md": "text/markdown",
        "docs/empty.txt": "text/plain",
        "white /c.txt": "text/plain",
    }
    assert contex("publish", "k", "--dir", str(tmp_path)).code == ExitCode.USAGE
    assert contex("publish", "--dir", str(tmp_path / "a.json")).code == ExitCode.USAGE


def test_agents(contex: Contex) -> None:
    publish(contex, "api_config", API_CONFIG, "-d", "API endpoint and timeouts")
    needs = ["API endpoints and timeouts", "payment providers"]
    options = [part for need in needs for part in ("--need", need)]
    registered = contex.ok("register", "checkout", *options, "--json").record
    assert (registered["agent_id"], [n["text"] for n in registered["needs"]]) == ("checkout", needs)
    assert registered["cursor"]
    (datum,) = registered["data"]
    assert datum.keys() == EVENT_KEYS | MATCHED_KEYS
    assert datum["payload"] == json.loads(API_CONFIG)
    (match,) = datum["matches"]
    assert match["need"] == needs[0]
    assert match["score"] >= match["threshold"]

    shown = contex.ok("register", "checkout", *options, "--threshold", "0.9").out
    assert "payment providers" in shown
    assert "nothing yet" in shown
    assert "api_config" in contex.ok("agents", "update", "checkout", "--threshold", "0.3").out
    assert contex.ok("agents", "show", "checkout", "--json").record["threshold"] == 0.3
    assert "checkout" in contex.ok("agents").out
    (listed,) = contex.ok("agents", "--json").records
    assert [need["text"] for need in listed["needs"]] == needs

    acknowledged = contex.ok("agents", "ack", "checkout", registered["sequence"], "--json").record
    assert acknowledged["agent_id"] == "checkout"
    assert contex.ok("agents", "unregister", "checkout", "--json").record["sequence"]
    assert contex.ok("agents", "--json").records == []
    assert "no agents" in contex.ok("agents").out


def test_listen_prints_as_matches_arrive_and_acknowledges(contex: Contex) -> None:
    contex.ok("register", "checkout", "--need", "API endpoints and timeouts")
    listening = contex.start("listen", "checkout", "--ack", "--json")
    published = publish(contex, "api_config", API_CONFIG, "-d", "API endpoint and timeouts")
    publish(contex, "weather", '"sunny"', "-d", "weather of tomorrow")
    assert listening.stdout is not None
    matched = json.loads(listening.stdout.readline())
    assert matched.keys() == EVENT_KEYS | MATCHED_KEYS | {"kind"}
    assert matched["sequence"] == published["sequence"]
    listening.send_signal(signal.SIGINT)
    rest, err = listening.communicate(timeout=10)
    assert (listening.returncode, rest, err) == (ExitCode.OK, "", "")
    agent = contex.ok("agents", "show", "checkout", "--json").record
    # Perhaps also past the other event, which is nothing to this agent.
    assert agent["acknowledged_sequence"] >= published["sequence"]

    again = contex.ok("listen", "checkout", "--after", "0", "--count", "1").out
    assert "API endpoints and timeouts" in again
    assert "api_config r1" in again


def test_tail_follows_without_a_gap(contex: Contex) -> None:
    publish(contex, "before", "1")
    following = contex.start("tail", "-f", "-n", "1", "--key", "before", "--key", "aft*")
    assert following.stdout is not None
    assert "before r1" in following.stdout.readline()
    publish(contex, "other", "2")
    publish(contex, "after", "3")
    assert "after r1" in following.stdout.readline()
    following.send_signal(signal.SIGINT)
    rest, err = following.communicate(timeout=10)
    assert (following.returncode, rest, err) == (ExitCode.OK, "", "")


def test_interrupting_a_command_that_would_end(contex: Contex) -> None:
    publishing = contex.start("publish", "--stream", "-", stdin=subprocess.PIPE)
    assert publishing.stdin is not None
    publishing.stdin.write('{"data_key":"k","data":1}\n')
    publishing.stdin.flush()
    deadline = time.monotonic() + 10
    while not contex("events", "--json").out and time.monotonic() < deadline:
        time.sleep(0.05)
    publishing.send_signal(signal.SIGINT)
    assert publishing.wait(5) == ExitCode.INTERRUPTED
    assert len(contex.ok("events", "--json").records) == 1


def test_a_reader_that_goes_away_is_no_error(contex: Contex) -> None:
    lines = "\n".join('{"data_key":"k","data":"%s"}' % ("x" * 500) for _ in range(1_000))
    publishing = contex.start("publish", "--stream", "-", stdin=subprocess.PIPE)
    publishing.communicate(lines, timeout=20)
    replaying = contex.start("replay", "--json")
    assert replaying.stdout is not None
    assert replaying.stderr is not None
    replaying.stdout.readline()
    replaying.stdout.close()
    assert replaying.wait(10) == ExitCode.OK
    assert replaying.stderr.read() == ""


def test_a_port_that_is_taken(target: str, tmp_path: Path) -> None:
    port = target.rpartition(":")[2]
    done = subprocess.run(
        [*CONTEX, "serve", "--port", port, "--data-dir", str(tmp_path), "--log-level", "error"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == ExitCode.UNEXPECTED
    assert f"can't listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr

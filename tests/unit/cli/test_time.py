"""The commands about time, the audit and projects, against a service with canned answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contex_cli.exits import ExitCode

from tests import command_line
from tests.unit.cli.service import NEED
from tests.unit.cli.time_service import START_MS, Agents, States, serving

EVENT_KEYS = {
    *("sequence", "time", "event_type", "data_key", "revision", "previous_sequence", "publisher"),
    *("description", "content_type", "metadata", "opaque", "payload"),
}


class Contex:
    """Commands for the service, and what it was asked."""

    def __init__(self, target: str, states: States, agents: Agents) -> None:
        self._environment = {"CONTEX_TARGET": target, "CONTEX_PROJECT": "p", "CONTEX_DEBUG": ""}
        self.states = states
        self.agents = agents

    def run(self, *arguments: str) -> command_line.Done:
        return command_line.invoke(*arguments, env=self._environment)

    def __call__(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.exit_code == ExitCode.OK, done.output
        return done.stdout

    def records(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self(*arguments, "--json").splitlines()]


@pytest.fixture(scope="module")
def contex() -> Iterator[Contex]:
    with serving() as (target, states, agents, _, _):
        yield Contex(target, states, agents)


def test_a_misread_moment_is_no_key(contex: Contex) -> None:
    for word in ("yesterday 25:99", "25:99"):
        done = contex.run("diff", "0", word)
        assert done.exit_code == ExitCode.USAGE
        assert "the hour 25 is not from 0 to 23" in done.stderr
    contex("diff", "0", "now", "25:99")
    contex("diff", "0", "key 25:99")


def test_state(contex: Contex) -> None:
    out = contex("state", "--at", str(START_MS))
    assert "api_config" in out
    assert '{"timeout":60}' in out
    assert "2 data, as of 2025-11-24T16:00:00.000Z" in out
    assert contex.states.requests[-1].as_of.unix_ms == START_MS
    one = contex("state", "api_config")
    assert "api_config  revision 2" in one
    assert '  "timeout": 60\n' in one
    assert "1 datum, as of" in contex("state", "--key", "api_config")
    assert "no data, as of" in contex("state", "none?")


def test_a_key_without_a_datum_is_not_found(contex: Contex) -> None:
    for arguments in (["none"], ["--key", "none"], ["api_config", "none", "--json"]):
        done = contex.run("state", *arguments)
        assert done.exit_code == ExitCode.NOT_FOUND
        assert "contex: no datum 'none' at that moment" in done.stderr
    assert "api_config" in done.stdout


def test_deleted_data_are_shown_on_request(contex: Contex) -> None:
    assert "(deleted)" in contex("state", "--deleted", "--keys")


def test_state_for_programs(contex: Contex) -> None:
    datum, other, summary = contex.records("state")
    assert datum.keys() == other.keys() == EVENT_KEYS | {"deleted", "payload_omitted"}
    assert summary["summary"]["data_count"] == 2
    assert summary["summary"]["as_of"].keys() == {"sequence", "time"}
    assert contex.records("state", "k", "--keys")[0] == {
        "data_key": "k",
        "sequence": f"{START_MS + 2}-0",
        "revision": 2,
        "deleted": False,
    }


def test_diff(contex: Contex) -> None:
    out = contex("diff", "5-0", "now", "k*", "x")
    for shown in (
        *("+ new  r1  by ops", "- gone  r3", "~ json  r1 → r2  by ops", "~ replace /timeout  60"),
        *("- remove  /retries", "-old  line", "+new\\x1b[2J line", "(the payload is the same)"),
        *("(no patch: one of the payloads is not text)", "1 added, 1 removed, 4 changed"),
    ):
        assert shown in out
    request = contex.states.requests[-1]
    assert (request.base.sequence, list(request.data_keys)) == ("5-0", ["k*", "x"])
    contex("diff", "5-0", "6-0", "k")
    assert contex.states.requests[-1].target.sequence == "6-0"
    contex("diff", "5-0", "api_config")
    assert list(contex.states.requests[-1].data_keys) == ["api_config"]


def test_diff_for_programs(contex: Contex) -> None:
    *changes, summary = contex.records("diff", "5-0")
    assert [change["kind"] for change in changes] == ["added", "removed", *["changed"] * 4]
    assert changes[0]["before"] is None
    assert changes[0]["after"].keys() == EVENT_KEYS | {"deleted", "payload_omitted"}
    patches = [change["patch"] for change in changes[2:]]
    assert [list(patch) for patch in patches] == [["json_patch"], ["unified_diff"], [], ["omitted"]]
    assert patches[0]["json_patch"][0]["path"] == "/timeout"
    assert patches[3]["omitted"] == "binary"
    assert summary["summary"].keys() == {"base", "target", "added", "removed", "changed"}


def test_history(contex: Contex) -> None:
    out = contex("history", "k")
    assert [line[:2] for line in out.splitlines() if line.startswith("r")] == ["r3", "r2", "r1"]
    assert '    {"timeout":60}' in out
    assert len(contex("history", "k", "--brief").splitlines()) == 3
    assert contex.states.requests[-1].omit_patches
    assert '  "timeout": 60' in contex("history", "k", "--revision", "2")
    limited = contex.run("history", "k", "--limit", "2")
    assert limited.stderr == "the newest 2 are shown; --limit 0 shows all\n"
    assert contex.run("history", "none").exit_code == ExitCode.NOT_FOUND
    first, *_, last = contex.records("history", "k")
    assert first.keys() == EVENT_KEYS | {"patch", "payload_omitted"}
    assert last["patch"] is None


def test_blame(contex: Contex) -> None:
    done = contex.run("blame", "k")
    assert "the revisions before it were not read" in " ".join(done.stderr.split())
    revisions = [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
    assert [name for name in revisions if name in ("r1", "r3")] == ["r3", "r1"]
    first, second, summary = contex.records("blame", "k")
    assert (first["path"], first["value"], second["value"]) == ("/timeout", 60, "https://a")
    assert summary["summary"].keys() == {"data_key", "sequence", "revision", "as_of", "truncated"}


def test_knew(contex: Contex) -> None:
    out = contex("knew", "checkout", "--near-misses", "3")
    for shown in (
        *("checkout  as of", "connected     since", f"0  {NEED}  (threshold 0.5)"),
        *("What it knew  1, 1 out of date", "no: r6 by then, muted", "missed", "nearly matched"),
    ):
        assert shown in out
    assert contex.agents.requests[-1].near_misses == 3
    (record,) = contex.records("knew", "checkout")
    assert record["connected"] is True
    stale = ("stale", "stale_reason", "pending_kind")
    assert [record["known"][0][name] for name in stale] == [True, "muted", "updated"]
    assert record["known"][0]["event"].keys() == EVENT_KEYS
    assert record["held_back"][0]["reason"] == "below_threshold"
    assert record["held_back"][0].keys() >= EVENT_KEYS | {"score", "matches"}
    contex.agents.connected = False
    assert "not connected since" in contex("knew", "checkout")
    assert contex.records("knew", "checkout")[0]["connected"] is False


def test_deliveries(contex: Contex) -> None:
    out = contex("deliveries", "--event", "5-0")
    assert "stream, again" in out
    assert "updated" in out
    assert "need 1" in out
    records = contex.records("deliveries", "--agent", "checkout", "--since", "1-0", "--backwards")
    assert [(record["kind"], record["resend"]) for record in records] == [
        ("stream", False),
        ("stream", True),
    ]
    assert contex.agents.requests[-1].agent_id == "checkout"


def test_audit(contex: Contex, tmp_path: Path) -> None:
    out = contex("audit", "--action", "published", "--action", "deleted")
    assert "ops (unverified)" in out
    assert "contex-python/0.1.0" in out
    first, _ = contex.records("audit")
    assert list(first)[:3] == ["time", "action", "actor"]
    assert (list(first)[-1], first["action"]) == ("record_id", "PUBLISHED")
    file = tmp_path / "records.csv"
    done = contex.run("audit", "--output", str(file))
    assert (file.read_bytes(), done.stdout) == (b"time,action\nthen,PUBLISHED\n", "")
    assert done.stderr.startswith("exported 1 record in ")
    refused = contex.run("audit", "--output", str(tmp_path / "records.parquet"))
    assert refused.exit_code == ExitCode.UNSUPPORTED
    assert list(tmp_path.iterdir()) == [file]


def test_stats(contex: Contex) -> None:
    out = contex("stats")
    assert "1,204,311, 5.0 MiB appended" in out
    assert "3.25 events a second" in out
    assert contex.records("stats")[0]["data_key_count"] == 930


def test_activity(contex: Contex, tmp_path: Path) -> None:
    done = contex.run("activity", "--by", "key", "--bucket", "1h", "--until", "now")
    for shown in (
        "p  40 events, ",
        "by the hour",
        "$a_{1}",
        "(not named)",
        "75%",
        "busiest at 00:00",
    ):
        assert shown in done.stdout
    (record,) = contex.records("activity", "--by", "key")
    assert (record["dimension"], record["total"]["total"]) == ("key", 40)
    assert [series["name"] for series in record["series"]] == ["$a_{1}", ""]
    assert "no events in this range" in contex("activity", "--name", "none")
    png, page = tmp_path / "a.png", tmp_path / "a.html"
    contex("activity", "--by", "key", "--png", str(png), "--html", str(page))
    assert png.read_bytes().startswith(b"\x89PNG")
    html = page.read_text(encoding="utf-8")
    assert "<svg" in html
    assert "$a_{1}" in html

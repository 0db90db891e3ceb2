"""The commands about matching, and those about agents, against a service with canned answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from contex import DeadlineExceeded, Match
from contex.match import explanation
from contex.v1 import event_pb2, match_service_pb2
from contex_cli import indexing
from contex_cli import match as match_commands
from contex_cli.command import Session
from contex_cli.exits import ExitCode
from contex_cli.explanation import show_explanation
from contex_cli.matches import usual_line
from contex_cli.parameters import bind

from tests import command_line
from tests.unit.cli.service import NEED, Agents, Matching, serving

MATCH_KEYS = {
    *("need_index", "need", "score", "cosine", "threshold", "model", "path", "passage"),
    *("background_mean", "background_deviation", "standing", "lexical"),
    *("background_passages", "background_sequence", "scorer", "share"),
    *("usual_cosine", "coverage", "expected_coverage", "need_id"),
}
AGENT_KEYS = {
    *("agent_id", "needs", "threshold", "max_matches", "min_delta", "muted_kinds", "exclude_own"),
    *("registered_time", "updated_time", "acknowledged_sequence"),
    *("ttl", "last_contact_time", "progress", "identity"),
    *("readable_data_keys", "sees_nothing"),
}


class Contex:
    """Commands for the service, and what it was asked last."""

    def __init__(self, target: str, agents: Agents, matching: Matching) -> None:
        self._environment = {"CONTEX_TARGET": target, "CONTEX_PROJECT": "p", "CONTEX_DEBUG": ""}
        self.target = target
        self.agents = agents
        self.matching = matching

    def __call__(self, *arguments: str) -> tuple[str, str]:
        done = command_line.invoke(*arguments, env=self._environment)
        assert done.exit_code == ExitCode.OK, done.output
        return done.stdout, done.stderr

    def records(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self(*arguments, "--json")[0].splitlines()]

    def refused(self, *arguments: str) -> str:
        done = command_line.invoke(*arguments, env=self._environment)
        assert done.exit_code == ExitCode.USAGE
        return done.stderr


@pytest.fixture(scope="module")
def service() -> Iterator[Contex]:
    with serving() as (target, agents, matching):
        yield Contex(target, agents, matching)


@pytest.fixture
def contex(service: Contex) -> Contex:
    service.agents.requests.clear()
    service.matching.requests.clear()
    service.matching.texts_embedded.clear()
    service.matching.data_indexed.clear()
    return service


def test_match_shows_score_place_and_words(contex: Contex) -> None:
    out, err = contex("match", NEED, "--top", "3", "--threshold", "0.4", "--key", "pay*")
    assert out.startswith(NEED)
    for shown in ("0.83", "payments.yaml", "/providers/0-1", "stripe adyen", "as of 9-0"):
        assert shown in out
    assert err == ""
    (request,) = contex.matching.requests
    assert (request.project, request.max_matches, request.threshold) == ("p", 3, 0.4)
    assert (list(request.data_keys), request.HasField("as_of")) == (["pay*"], False)


def test_match_explained_draws_the_parts(contex: Contex) -> None:
    out, _ = contex("match", NEED, "--explain", "--as-of", "5-0")
    probability, standing, contrast, surplus = (line.split() for line in out.splitlines()[3:7])
    assert probability == ["probability", "███████┃████████▋", "0.83", "┃", "threshold", "0.35"]
    assert standing[:3] == ["standing", "│█████▍", "2.41"]
    assert contrast[:3] == ["contrast", "│█████", "0.56"]
    assert surplus[:3] == ["surplus", "│██████▏", "0.68"]
    assert contex.matching.requests[0].as_of.sequence == "5-0"


def test_match_writes_out_a_context(contex: Contex) -> None:
    out, err = contex("match", NEED, "--format", "yaml", "--max-tokens", "200")
    assert out == "- data_key: payments.yaml\n"
    assert "cut: 3 of 4 data left out; the rest takes 120 of 21,120 tokens" in err
    assert "0.40  big  9,000 tokens\n  and 2 more" in err
    assert "120 tokens (estimate)" in err
    (request,) = contex.matching.requests
    assert request.context_format == event_pb2.CONTEXT_FORMAT_YAML
    assert request.max_context_tokens == 200
    assert "big  9,000 tokens" in contex("match", NEED, "--max-tokens", "200")[0]


def test_what_matches_but_does_not_fit_is_counted(contex: Contex) -> None:
    out, _ = contex("match", NEED, "--max-tokens", "200")
    assert "\n4 data match and 1 fits, as of 9-0\n" in out
    out, _ = contex("match", NEED, "--max-tokens", "1")
    assert out.startswith(f"{NEED}\n  nothing that fits\n\n3 data match and none fits, as of 9-0\n")
    out, _ = contex("register", "a", "-n", NEED, "--max-tokens", "200")
    assert "\na: 4 data match and 1 fits, as of 9-0\n" in out


def test_match_for_programs(contex: Contex) -> None:
    (record,) = contex.records("match", NEED, "--format", "yaml")
    assert record.keys() == {"questions", "sequence", "data", "context", "omitted_count"}
    assert record["data"][0]["matches"][0].keys() == MATCH_KEYS
    assert record["context"] == {
        "text": "- data_key: payments.yaml",
        "format": "yaml",
        "tokens": 120,
        "token_counter": "estimate",
        "omitted": [{"data_key": "big", "sequence": "7-0", "score": 0.4, "tokens": 9000}],
        "omitted_count": 3,
        "omitted_tokens": 21_000,
    }
    assert contex.records("match", NEED)[0]["context"] is None


def test_explain_adds_up(contex: Contex) -> None:
    out, _ = contex("explain", NEED, "payments.yaml")
    assert "matches: score 0.83 ≥ threshold 0.35" in out
    assert "Two words of three hit" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert rows["bias"] == ["bias", "1.000", "-3.100", "-3.10", "██████████████│"]
    assert rows["standing"][-2:] == ["needs", "0.20"]
    assert " ".join(rows["surplus"][-7:]) == "needs 1.25, at most 0.88 is possible"
    assert rows["sum"][1] == "+1.57"
    assert rows["payment"][2:] == ["0.50", "0.40", "█████████████░░░"]
    assert rows["use"][2:] == ["0.20", "-", "░░░░░░"]
    assert "(head)" in out
    assert "place 1 of 1,200 data" in out


def test_explain_says_what_is_usual_and_which_words_were_found(contex: Contex) -> None:
    out, _ = contex("explain", NEED, "payments.yaml")
    assert (
        "need: usually 0.20 ± 0.10 with data; datum: usually 0.05 with needs; "
        "background: 900 data since 5-0\n"
    ) in out
    assert "words: found payment, providers; missing use; coverage 0.80, by chance 0.12\n" in out
    match = Match(0, "n", 0.7, 0.7, 0.35, "m", background_sequence="0")
    assert usual_line(match).endswith("background: the shipped one")


def test_explain_shows_a_relative_score(contex: Contex) -> None:
    out, _ = contex("explain", NEED, "relative")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert rows["lexical"] == ["lexical", "0.420", "+2.550", "+1.07", "│████▏"]
    assert rows["sum"][1] == "+1.59"
    assert "background: 900 passages as of 5-0" in out
    assert "words: found payment, providers; missing use\n" in out
    assert "needs " not in out.partition("sum")[0].partition("term ")[2]


def test_a_table_of_thresholds(contex: Contex) -> None:
    out, _ = contex("match", NEED, "all", "--thresholds", "--key", "pay*")
    (request,) = contex.matching.requests
    assert (request.max_matches, request.threshold) == (100, 0.05)
    assert list(request.data_keys) == ["pay*"]
    first, second = (table.splitlines() for table in out.split("\nall")[:2])
    rows = [line.split() for line in first if "0." in line]
    assert rows[0] == ["0.05", "3", "█" * 30, "0.200", "k0.200"]
    assert rows[3] == ["0.20", "3", "█" * 30, "0.200", "k0.200"]
    assert ["▸", "0.33", "2", "█" * 20, "0.610", "k0.610"] in rows  # the server's default
    assert rows[-1] == ["0.95", "0"]
    assert len(rows) == 20
    rows = [line.split() for line in second if "0." in line]
    assert rows[0] == ["0.05", "100+", "█" * 30, "not", "known:", "the", "answer", "is", "full"]
    assert [row[1:2] + row[-1:] for row in rows if row[0] == "0.50"] == [["81", "k0.500"]]
    assert "an answer has at most 100 data: + means that there may be more" in out
    assert out.endswith("▸ threshold 0.33, as of 9-0\n")


def test_thresholds_for_programs(contex: Contex) -> None:
    (record,) = contex.records("match", NEED, NEED, "--thresholds", "--min-score", "0.01")
    assert contex.matching.requests[0].threshold == 0.01
    first, second = record["needs"]
    assert (first["need"], first["threshold"], len(first["steps"])) == (NEED, 0.01, 20)
    assert first["steps"][-3:-1] == [
        {
            "threshold": at,
            "data_matched": 1,
            "cut": False,
            "lowest": {"data_key": "k0.900", "score": 0.9},
        }
        for at in (0.85, 0.9)
    ]
    assert first["steps"][-1]["lowest"] is None
    assert (second["steps"][0]["cut"], second["steps"][0]["lowest"]) == (True, None)


@pytest.mark.parametrize("other", [["--top", "3"], ["--explain"], ["--max-tokens", "9"]])
def test_thresholds_take_the_place_of_other_answers(contex: Contex, other: list[str]) -> None:
    assert "--thresholds" in contex.refused("match", NEED, "--thresholds", *other)


@pytest.mark.parametrize(
    ("arguments", "need", "datum"),
    [
        ([NEED, "k"], NEED, "k"),
        ([NEED, "--sequence", "1-0"], NEED, "1-0"),
        (["--agent", "a", "--need-index", "2", "k"], ("a", 2), "k"),
        (["--agent", "a", "--sequence", "1-0"], ("a", 0), "1-0"),
    ],
)
def test_explain_takes_a_need_and_a_datum(
    contex: Contex, arguments: list[str], need: Any, datum: str
) -> None:
    (record,) = contex.records("explain", *arguments)
    assert record["log_odds"] == pytest.approx(1.57)
    assert record["need_match"].keys() == MATCH_KEYS
    (request,) = contex.matching.requests
    asked = request.agent_need
    assert need in (request.text, (asked.agent_id, asked.need_index))
    assert datum in (request.data_key, request.sequence)


@pytest.mark.parametrize(
    "arguments", [[], ["x"], ["x", "k", "--sequence", "1-0"], ["x", "k", "--agent", "a"]]
)
def test_explain_refuses_too_few_and_too_many(contex: Contex, arguments: list[str]) -> None:
    assert "takes " in contex.refused("explain", *arguments)


def test_a_need_of_an_agent_is_named_by_position_and_text(contex: Contex) -> None:
    named = ("--need-index", "2", "--need", NEED)
    contex("explain", "--agent", "a", *named, "k")
    contex("feedback", "give", "a", "1-0", "--useful", *named)
    explained, given = contex.matching.requests
    assert (explained.agent_need.need_index, explained.agent_need.need) == (2, NEED)
    assert (given.need_index, given.need) == (2, NEED)
    assert "--agent only" in contex.refused("explain", "x", "k", "--need", NEED)


def test_backtest(contex: Contex) -> None:
    out, err = contex("backtest", "x", "y", "--since", "1-0", "--min-delta-pointer", "/price")
    assert out.startswith("0.83  ")
    assert "12 of 40 events would have been delivered, about 4 data; --min-delta held" in out
    assert out.count("▸ 0.33  ") == 2  # the server's default threshold
    assert err.startswith("read 40 events in ")
    (request,) = contex.matching.requests
    assert [need.text for need in request.needs] == ["x", "y"]
    assert list(request.min_delta.json_pointers) == ["/price"]
    assert not request.HasField("threshold")


def test_backtest_for_programs(contex: Contex, tmp_path: Path) -> None:
    path = tmp_path / "needs.yaml"
    path.write_text("[{text: y, threshold: 0.7}]")
    options = ("--needs-file", str(path), "--threshold", "0.4", "--min-delta")
    event, last = contex.records("backtest", "x", *options)
    assert event["backfilled"] is False
    assert last["summary"]["updates_held_back"] == 2
    needs = last["summary"]["needs"]
    assert [(need["need"], need["threshold"]) for need in needs] == [("x", 0.4), ("y", 0.7)]
    assert list(needs[0]["events_at_threshold"])[::18] == ["0.05", "0.95"]
    (request,) = contex.matching.requests
    assert request.min_delta.payload_changed
    (last,) = contex.records("backtest", "x", "--summary")
    assert last.keys() == {"summary"}


def test_feedback(contex: Contex, tmp_path: Path) -> None:
    out, _ = contex("feedback", "give", "a", "1-0", "--not-useful", "--comment", "old")
    assert out == "1-0 was not useful for a  10-0\n"
    assert contex.records("feedback", "give", "a", "1-0", "--useful") == [{"sequence": "10-0"}]
    first, second = contex.matching.requests
    assert (first.useful, first.comment, second.useful) == (False, "old", True)

    path = tmp_path / "feedback.jsonl"
    out, err = contex("feedback", "export", str(path), "--until", "2026-01-01T00:00:00Z")
    assert out == ""
    assert err.startswith("exported 2 judgements in ")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["useful"] for record in records] == [True, False]
    assert records[0].keys() == (MATCH_KEYS - {"need_index"}) | {
        *("useful", "comment", "agent_id", "time", "feedback_sequence", "sequence", "data_key"),
        *("revision", "description", "content_type", "payload"),
    }
    lines = contex("feedback", "export")[0].splitlines()
    assert [json.loads(line) for line in lines] == records
    assert "can't write" in contex.refused("feedback", "export", str(tmp_path))


def test_matching_shows_how_a_change_of_the_model_comes_on(
    contex: Contex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(match_commands, "_ASK_EVERY_S", 0.001)
    out, err = contex("matching")
    assert "1,200 data, 3,400 passages" in out
    assert "re-embedding" not in out + err

    contex.matching.texts_embedded = [100]
    assert "100 of 400 texts (25%)" in contex("matching")[0]

    contex.matching.texts_embedded = [100, 100, 300]
    out, err = contex("matching", "--watch")
    assert [line.split("  ")[-1].strip() for line in err.splitlines()] == [
        "100 of 400 texts (25%)",
        "300 of 400 texts (75%)",
    ]
    assert "new" in out

    contex.matching.texts_embedded = [100, 300]
    records = contex.records("matching", "--watch")
    assert [record["texts_embedded"] for record in records] == [100, 300, 0]
    assert records[-1]["model"] == records[-1]["configured_model"]


def test_matching_shows_how_far_an_index_is(contex: Contex) -> None:
    contex.matching.data_indexed = [300]
    assert "300 of 1,200 data (25%)" in contex("matching")[0]
    assert "of 1,200" not in contex("matching")[0]


async def test_a_call_that_is_out_of_time_is_made_again_when_the_index_is_built(
    contex: Contex, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(indexing, "_ASK_EVERY_S", 0.01)
    calls = 0

    async def call() -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.1)
        if calls == 1:
            raise DeadlineExceeded("too late", grpc.StatusCode.DEADLINE_EXCEEDED)
        return calls

    session = Session(**bind(Session, {"project": "p", "target": contex.target}))
    try:
        contex.matching.data_indexed = [300] * 30
        assert await indexing.when_indexed(session, call) == 2
        assert "300 of 1,200 data (25%)" in capfd.readouterr().err
        assert not contex.matching.data_indexed

        calls = 0
        with pytest.raises(DeadlineExceeded):  # It isn't for the index.
            await indexing.when_indexed(session, call)
        calls, session.is_limited = 0, True
        contex.matching.data_indexed = [300] * 30
        with pytest.raises(DeadlineExceeded):
            await indexing.when_indexed(session, call)
    finally:
        await session.close()


def test_register_with_all_options(contex: Contex) -> None:
    out, _ = contex(
        *("register", "a", "--need", NEED, "--exclude", "test/*", "--min-delta"),
        *("--max-tokens", "100"),
    )
    for shown in (
        "/providers/0-1",
        "stripe adyen",
        "a: 4 data match and 1 fits",
        "big  9,000 tokens",
    ):
        assert shown in out
    (request,) = contex.agents.requests
    assert list(request.needs[0].exclude_data_keys) == ["test/*"]
    assert request.min_delta.payload_changed
    assert request.max_context_tokens == 100
    assert contex("register", "a", "--need", NEED, "--format", "yaml")[0].startswith("- data_key")


def test_register_with_filters(contex: Contex) -> None:
    contex(
        *("register", "a", "--need", NEED, "--exclude", "orders/test"),
        *("--filter", "key=orders/*, type-prefix=order.", "--filter", "everything"),
    )
    (request,) = contex.agents.requests
    assert [need.text for need in request.needs] == [NEED, "", ""]
    first, second = request.needs[1:]
    assert (list(first.filter.data_keys), list(first.exclude_data_keys)) == (
        ["orders/*"],
        ["orders/test"],
    )
    assert list(first.filter.event_type_prefixes) == ["order."]
    assert second.HasField("filter")
    for wrong in ("orders/*", "keys=x", "key=", "", "meta=x", "everything, key=x"):
        assert "--filter" in contex.refused("register", "a", "--filter", wrong)


def test_the_explanation_of_a_filter_has_no_score(capsys: pytest.CaptureFixture[str]) -> None:
    message = match_service_pb2.ExplainResponse(verdict="It fails the filter by its type.")
    message.event.data_key, message.event.sequence = "k", "5-0"
    message.need_match.need = "type=order.paid"
    show_explanation(explanation(message))
    assert capsys.readouterr().out.split("\n") == [
        *("type=order.paid", "k r0  5-0", "does not match", "It fails the filter by its type.", "")
    ]


def test_a_filter_is_shown_as_it_is_typed(contex: Contex) -> None:
    contex.agents.filters = ["orders/*", "a,b"]
    out, _ = contex("agents", "show", "a")
    assert "key=a,b, key=orders/*  (at most 3)" in out


def test_a_registration_for_programs(contex: Contex) -> None:
    (record,) = contex.records("register", "a", "--need", NEED)
    assert record.keys() == AGENT_KEYS | {
        *("sequence", "cursor", "data", "context", "omitted_count", "outcome")
    }
    assert (record["context"], record["min_delta"]) == (None, None)
    assert not contex.agents.requests[0].HasField("min_delta")


def test_updating_can_clear_the_delta(contex: Contex) -> None:
    contex("agents", "update", "a", "--no-min-delta")
    (request,) = contex.agents.requests
    assert request.HasField("min_delta")
    assert not request.min_delta.payload_changed
    assert "contradicts" in contex.refused(
        *("agents", "update", "a", "--no-min-delta", "--min-delta-pointer", "/x")
    )
    assert "together with needs" in contex.refused("agents", "update", "a", "--exclude", "x")


def test_muting_and_own_events(contex: Contex) -> None:
    kinds = ("--mute", "updated, left", "--exclude-own")
    out, _ = contex("register", "a", "-n", "x", *kinds)
    assert "nothing changed" not in out
    contex("agents", "update", "a", "--mute", "none", "--include-own")
    contex("agents", "update", "a", "--threshold", "0.5")
    registered, cleared, other = contex.agents.requests
    assert list(registered.muted_kinds) == [
        event_pb2.MATCH_KIND_UPDATED,
        event_pb2.MATCH_KIND_LEFT,
    ]
    assert registered.exclude_own
    assert cleared.HasField("muted_kinds")
    assert not cleared.muted_kinds.kinds
    assert (cleared.HasField("exclude_own"), cleared.exclude_own) == (True, False)
    assert not any(map(other.HasField, ("muted_kinds", "exclude_own")))
    for kinds in ("matched", "", "updated,erased"):
        assert "not one of updated, left, deleted, expired" in contex.refused(
            *("agents", "update", "a", "--mute", kinds)
        )


def test_a_registration_that_changes_nothing_says_so(contex: Contex) -> None:
    told = "nothing changed: it was registered like this already"
    assert told in contex("register", "known", "-n", "x")[0]
    assert told in contex("register", "known", "-n", "x", "--format", "yaml")[1]
    (record,) = contex.records("register", "known", "-n", "x")
    assert record["outcome"] == "unchanged"


def test_an_agent_shows_the_options_of_its_needs(contex: Contex) -> None:
    out, _ = contex("agents", "show", "a")
    assert f"{NEED}  (threshold 0.5; at most 3; not test/*, tmp/*)" in out
    assert "0a1b2c3d  " in out
    assert "updates that change /price or the whole" in out
    assert "expired" in out
    assert "not delivered" in out
    (record,) = contex.records("agents", "show", "a")
    assert record["min_delta"] == {"payload_changed": False, "json_pointers": ["/price", ""]}
    assert record["needs"][1] == {
        "text": "weather",
        "threshold": None,
        "max_matches": None,
        "exclude": [],
        "filter": None,
        "id": "",
    }


def test_listen_tells_a_change_of_needs_and_what_it_brings(contex: Contex) -> None:
    out, err = contex("listen", "a", "--count", "3", "--ack")
    new, old, left = out.splitlines()
    assert new.startswith("updated  0.83  ")
    assert "new r3  at /providers/0-1" in new
    assert old.startswith("matched  0.83  ")
    assert "old r3" in old
    assert left.startswith("left  ")
    assert "new r3" in left
    assert err == "the registration was changed: 1 need; what that brings follows\n"
    # What was printed last has its place where the registration is: the cursor says so.
    assert contex.agents.requests[-1].cursor == "c3"
    contex("listen", "a", "--count", "1", "--ack")
    assert contex.agents.requests[-1].cursor == "c1"

    records = contex.records("listen", "a", "--count", "3")
    assert [record["kind"] for record in records] == ["updated", "matched", "left"]


def test_listen_acknowledges_inside_of_a_message_what_was_printed(contex: Contex) -> None:
    contex("listen", "a", "--count", "2", "--ack")
    sent = [r for r in contex.agents.requests if r.DESCRIPTOR.name == "AcknowledgeRequest"]
    assert sent[-1].cursor == "c2"


def test_listen_prints_what_is_written_out(contex: Contex) -> None:
    assert contex("listen", "a", "--count", "1", "--format", "markdown")[0] == "# new\n"
    assert contex.agents.requests[0].context_format == event_pb2.CONTEXT_FORMAT_MARKDOWN


def test_listen_says_of_what_is_written_out_that_it_left(contex: Contex) -> None:
    _, err = contex("listen", "a", "--count", "3", "--format", "markdown")
    assert "left: new meets the needs no longer; as it is now:\n" in err

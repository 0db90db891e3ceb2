from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from contex import (
    Agent,
    BacktestSummary,
    Change,
    ChangeKind,
    Context,
    Contribution,
    Datum,
    Erasure,
    Event,
    Explanation,
    Feedback,
    Match,
    MatchAnswer,
    MatchedEvent,
    MatchingStatus,
    MinDelta,
    Moment,
    Need,
    NeedSummary,
    OmittedDatum,
    PassageScore,
    Patch,
    Registration,
    Revision,
    StateDiff,
    TermHit,
)
from contex_cli import output, records, state
from contex_cli.match import summary_record
from contex_cli.output import told_apart
from hypothesis import given
from hypothesis import strategies as st

JSON_PAGE = Path(__file__).parents[3] / "docs" / "guide" / "json.md"


def event(**fields: Any) -> Event:
    return Event(
        **{
            "sequence": "1764000000123-4",
            "event_type": "data_published",
            "data_key": "api_config",
            "payload": b'{"timeout":30}',
            "content_type": "application/json",
            "description": "API endpoint",
            "publisher": "ops",
            "metadata": {"team": "core"},
            "revision": 2,
            "previous_sequence": "1764000000000-0",
            **fields,
        }
    )


def printed(record: object, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    output.print_json(record)
    output.flush()
    line = capsys.readouterr().out
    assert line.endswith("\n")
    assert line.count("\n") == 1
    decoded: dict[str, Any] = json.loads(line)
    return decoded


def test_an_event_has_stable_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(event(), capsys) == {
        "sequence": "1764000000123-4",
        "time": "2025-11-24T16:00:00.123Z",
        "event_type": "data_published",
        "data_key": "api_config",
        "revision": 2,
        "previous_sequence": "1764000000000-0",
        "publisher": "ops",
        "description": "API endpoint",
        "content_type": "application/json",
        "metadata": {"team": "core"},
        "opaque": False,
        "payload": {"timeout": 30},
    }


def test_a_matched_event_also_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    match = Match(1, "API timeouts", 0.7, 0.6, 0.35, "minilm", "/servers/3", "words", lexical=0.5)
    matched = MatchedEvent(event(), (match,))
    record = printed(matched, capsys)
    assert record["score"] == 0.7
    assert record["payload_omitted"] is False
    assert record["backfilled"] is False
    assert "context" not in record
    assert record["matches"] == [
        {
            "need_index": 1,
            "need": "API timeouts",
            "score": 0.7,
            "cosine": 0.6,
            "threshold": 0.35,
            "model": "minilm",
            "path": "/servers/3",
            "passage": "words",
            "background_mean": 0.0,
            "background_deviation": 0.0,
            "standing": 0.0,
            "lexical": 0.5,
            "background_passages": 0,
            "background_sequence": "",
            "scorer": "",
            "share": 0.0,
            "usual_cosine": 0.0,
            "coverage": 0.0,
            "expected_coverage": 0.0,
            "need_id": "",
        }
    ]
    written_out = records.record(replace(matched, context="- x"))
    assert written_out["context"] == "- x"


def test_every_key_is_documented() -> None:
    documented = set(re.findall(r"\w+", JSON_PAGE.read_text(encoding="utf-8")))
    match = Match(0, "n", 0.7, 0.7, 0.35, "m")
    matched = MatchedEvent(event(), (match,), context="x")
    agent = Agent("a", (Need("n"),), 0.3, 1, event().time, event().time, "0", MinDelta())
    context = Context("", None, 0, "estimate", (OmittedDatum("k", "1-0", 0.4, 7),))
    terms = ((Contribution("bias", 1, 1, 1),), (TermHit("w", "w", 1, 1),))
    passages = (PassageScore("", "", 0.1, 0.1, 0.1),)
    summary = BacktestSummary(1, 1, 1, 1, (NeedSummary(1, (1,)),))
    erased = replace(event(), erased=Erasure(event().time, "r", "asked", b"\x00"), payload=b"")
    printed = [
        Registration(agent, (matched,), "1-0", "c", context),
        MatchAnswer((matched,), "1-0", context, ("q",)),
        Explanation(event(), match, True, "v", *terms, passages),
        summary_record(summary, [("n", 0.3)]),
        Feedback("2-0", event().time, "a", "n", event(), match, True),
        MatchingStatus("m", "m", 0, 0, 1, 1, 1, 1, "s", 0.3, 0),
        erased,
    ]
    assert keys_of(json.loads(records.encode(printed))) <= (
        documented | {"team", "timeout", "05"}  # of the example's payload, metadata, thresholds
    )


def keys_of(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(keys_of, value))
    if not isinstance(value, dict):
        return set()
    return {key.removeprefix("0.") for key in value}.union(*map(keys_of, value.values()))


@pytest.mark.parametrize(
    ("payload", "content_type", "entry"),
    [
        (b"null", "", {"payload": None}),
        (b'"x"', "application/json; charset=utf-8", {"payload": "x"}),
        (b"[1,\r\n 2]", "application/problem+json", {"payload": [1, 2]}),
        (b"hello\nthere", "text/plain", {"payload_text": "hello\nthere"}),
        (b"{oops", "application/json", {"payload_text": "{oops"}),
        (b"\xff\x00", "application/octet-stream", {"payload_base64": "/wA="}),
        (b"\xff", "application/json", {"payload_base64": "/w=="}),
        (b"", "application/json", {}),
    ],
)
def test_the_payload_is_shown_as_what_it_is(
    payload: bytes, content_type: str, entry: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    record = printed(event(payload=payload, content_type=content_type), capsys)
    assert {k: v for k, v in record.items() if k.startswith("payload")} == entry


@pytest.mark.parametrize(
    "payload", [b"123456789012345678901234567890", b"0.1000", b'[1,\n "\\u00e9"]']
)
def test_numbers_keep_their_digits(payload: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json(event(payload=payload))
    output.flush()
    line = capsys.readouterr().out
    assert json.loads(line)["payload"] == json.loads(payload)
    if b"\n" not in payload:
        assert payload.decode() in line


@given(st.binary(max_size=60), st.sampled_from(["", "application/json", "text/plain", "x/y"]))
def test_every_payload_makes_one_valid_line(payload: bytes, content_type: str) -> None:
    line = records.encode(event(payload=payload, content_type=content_type))
    assert line.count(b"\n") == 1
    json.loads(line)


@given(st.text())
def test_plain_text_cannot_steer_a_terminal(text: str) -> None:
    shown = output.plain(text)
    shown.encode()  # no surrogates
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
    assert len(output.plain(text, 10)) <= 10


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a  b", "a  b"),
        ("価\u3000格", "価\u3000格"),
        (" a\n\t b\r\n", "a b"),
        ("a\u2028b", "a b"),
        ("e\u0301", "e\u0301"),
    ],
)
def test_plain_text_keeps_the_spaces_of_names(text: str, shown: str) -> None:
    assert output.plain(text) == shown


@given(st.binary(max_size=300), st.sampled_from(["", "text/plain", "image/png\x1b[2J"]))
def test_a_line_for_people_is_one_printable_line(payload: bytes, content_type: str) -> None:
    line = output.event_line(event(payload=payload, content_type=content_type, data_key="a\x1b"))
    assert line.isprintable() or not any(ord(c) < 32 for c in line)
    assert "\n" not in line


def test_a_line_for_people_says_what_happened() -> None:
    assert output.event_line(event()) == (
        '16:00:00.123  1764000000123-4  api_config r2  by ops  {"timeout":30}'
    )
    assert "data_deleted" in output.event_line(event(event_type="data_deleted", payload=b""))
    expired = event(event_type="data_expired", payload=b"")
    assert "data_expired" in output.event_line(expired)
    assert output.payload_preview(expired) == "(expired)"
    end = datetime(2030, 1, 31, 10, tzinfo=UTC)
    assert "  until 2030-01-31T10:00:00.000Z  {" in output.event_line(event(valid_until=end))


def test_a_column_that_few_items_have_is_shown_where_one_has() -> None:
    columns: output.Columns[Event] = {"data key": "data_key", "valid until": "valid_until"}
    lasts, ends = event(), event(valid_until=datetime(2030, 1, 31, 10, tzinfo=UTC))
    assert [c.header for c in output.table_of([lasts], columns).columns] == ["data key"]
    assert [c.header for c in output.table_of([lasts, ends], columns).columns] == [*columns]


def test_a_match_for_people_names_the_best_need() -> None:
    matches = (
        Match(0, "payments", 0.4, 0.4, 0.35, "m"),
        Match(1, "API timeouts", 0.71, 0.71, 0.35, "m"),
    )
    line = output.matched_line(MatchedEvent(event(), matches))
    assert line.startswith("0.71  API timeouts (+1)  ←  ")
    assert " at " not in line
    placed = replace(matches[1], path="/servers/3\x1b")
    assert "api_config r2  at /servers/3\\x1b  by ops" in output.matched_line(
        MatchedEvent(event(), (matches[0], placed))
    )


def test_markup_in_foreign_text_is_not_interpreted() -> None:
    assert output.cell("[bold]x[/]").plain == "[bold]x[/]"


def test_a_diff_of_what_was_erased_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    erased = event(erased=Erasure(event().time, "r", "asked", b"\x00"), payload=b"")
    sides = [Datum("k", "1-0", n, deleted=False, event=erased) for n in (1, 2)]
    change = Change(ChangeKind.CHANGED, "k", *sides, Patch())
    moment = Moment("1-0", event().time)
    state._show_diff(StateDiff((change,), moment, moment, 0, 0, 1), brief=False)
    shown = capsys.readouterr().out
    assert "(erased by request r because asked, at 2025-11-24T16:00:00.123Z)" in shown
    assert "(no patch: one of the payloads was erased)" in shown
    assert "the same" not in shown


def test_an_erased_revision_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    erased = event(erased=Erasure(event().time, "r", "asked", b"\x00"), payload=b"")
    for show in (state._show_brief, state._show_revision, state._show_whole_revision):
        show(Revision(erased, erased.time, Patch()))
        assert capsys.readouterr().out.count("(erased by request r because asked, at ") == 1


def test_what_a_rule_removed_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    rule = Erasure(event().time, "", "retention: keeps the last 3 revisions", b"\x00")
    state._show_brief(Revision(event(erased=rule, payload=b""), event().time, Patch()))
    assert "(removed by retention: keeps the last 3 revisions, at 20" in capsys.readouterr().out


def test_an_erased_judgement_says_so_for_programs() -> None:
    erased = event(erased=Erasure(event().time, "r", "asked", b"\x00"), payload=b"")
    match = Match(0, "n", 0.7, 0.7, 0.35, "m")
    record = records.record(Feedback("2-0", event().time, "a", "n", erased, match, True))
    assert record["erased"].reason == "asked"


@pytest.mark.parametrize(
    ("count", "thing", "text"),
    [
        (1, "datum", "1 datum"),
        (0, "datum", "0 data"),
        (2_000, "datum", "2,000 data"),
        (1, "event", "1 event"),
        (0, "data key", "0 data keys"),
    ],
)
def test_counted_things_have_their_number(count: int, thing: str, text: str) -> None:
    assert output.counted(count, thing) == text


def test_numbers_are_shown_so_that_their_comparison_is_true() -> None:
    assert told_apart(0.1474, 0.15) == ("0.147", "0.150")
    assert told_apart(0.149999, 0.15) == ("0.149999", "0.150000")
    assert told_apart(0.5, 0.15) == ("0.50", "0.15")
    assert told_apart(0.15, 0.15) == ("0.15", "0.15")

"""The judge of the demo must notice each way in which a run can be wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
from contex import Durability, NewEvent, Receipt
from contex_demo.corpus import Document, Need
from contex_demo.journal import MARK, Journal, Logged, digest
from contex_demo.verification import (
    AGENT_REGISTERED,
    Delivered,
    DeliveryFindings,
    LogFindings,
    check_deliveries,
    check_log,
    hit_rates,
    percentile,
    same_deliveries,
    stale,
)

REGISTRATION = Logged("5-0", AGENT_REGISTERED, "", 0, "", "", digest(b"{}"))


def run() -> tuple[Journal, list[Logged]]:
    """Two events of one key and one of another, all acknowledged, and a registration."""
    journal = Journal()
    log: list[Logged] = [REGISTRATION]
    places = [("a", "6-0", 1, ""), ("b", "6-1", 1, ""), ("a", "9-0", 2, "6-0")]
    for key, sequence, revision, previous in places:
        draft = journal.draft(Document(key, "", {"at": sequence}))
        acknowledge(journal, draft, sequence, revision)
        assert isinstance(draft.payload, bytes)
        log.append(
            Logged(
                sequence,
                "data_published",
                key,
                revision,
                previous,
                draft.metadata[MARK],
                digest(draft.payload),
            )
        )
    return journal, log


def acknowledge(journal: Journal, draft: NewEvent, sequence: str, revision: int) -> None:
    journal.acknowledge([draft], [Receipt(sequence, revision, Durability.FSYNC, False)])


def test_a_good_run_holds() -> None:
    journal, log = run()
    findings = check_log(log, journal, agents=1)
    assert findings == LogFindings()


def test_an_event_whose_outcome_is_unknown_may_be_there_or_not() -> None:
    journal, log = run()
    draft = journal.draft(Document("c", "", 1))
    assert check_log(log, journal, 1) == LogFindings()
    assert isinstance(draft.payload, bytes)
    there = Logged("9-1", "data_published", "c", 1, "", draft.metadata[MARK], digest(draft.payload))
    assert check_log([*log, there], journal, 1) == LogFindings()


def test_a_lost_event_is_noticed() -> None:
    journal, log = run()
    assert check_log(log[:-1], journal, 1) == LogFindings(lost=1)
    assert check_log([log[0], log[1], log[3]], journal, 1) == LogFindings(lost=1)


def test_a_lost_event_in_the_middle_of_a_key_is_a_gap_too() -> None:
    journal, log = run()
    assert check_log([log[0], *log[2:]], journal, 1) == LogFindings(lost=1, gaps=1)


def test_an_event_that_is_there_twice_is_noticed() -> None:
    journal, log = run()
    again = replace(log[-1], sequence="9-1", revision=3, previous_sequence="9-0")
    assert check_log([*log, again], journal, 1) == LogFindings(duplicated=1)


def test_another_payload_or_revision_is_noticed() -> None:
    journal, log = run()
    assert check_log([*log[:-1], replace(log[-1], payload_sha256="x")], journal, 1).altered == 1
    assert check_log([*log[:-1], replace(log[-1], revision=7)], journal, 1) == LogFindings(
        altered=1, gaps=1
    )


def test_foreign_events_are_noticed() -> None:
    journal, log = run()
    foreign = Logged("9-1", "data_published", "z", 1, "", "", "x")
    assert check_log([*log, foreign], journal, 1) == LogFindings(foreign=1)
    assert check_log([*log, replace(foreign, mark="999999")], journal, 1) == LogFindings(foreign=1)


def test_what_the_server_tells_about_its_scores_is_not_foreign() -> None:
    journal, log = run()
    told = Logged("9-1", "matching_background_changed", "", 0, "", "", "x")
    assert check_log([*log, told], journal, 1) == LogFindings()


def test_disorder_is_noticed() -> None:
    journal, log = run()
    assert check_log([log[0], log[2], log[1], log[3]], journal, 1) == LogFindings(unordered=1)
    # As pairs of integers, not as text.
    assert check_log([replace(REGISTRATION, sequence="5-9"), *log[1:]], journal, 1) == LogFindings()
    early = replace(REGISTRATION, sequence="5-10")
    assert check_log([replace(early, sequence="5-9"), early, *log[1:]], journal, 2) == LogFindings()


def test_missing_and_repeated_registrations_are_noticed() -> None:
    journal, log = run()
    assert check_log(log, journal, agents=2) == LogFindings(gaps=1)
    repeated = replace(REGISTRATION, sequence="5-1")
    assert check_log([REGISTRATION, repeated, *log[1:]], journal, 1) == LogFindings(duplicated=1)


A1, B1, A2 = Delivered("6-0", "a", 1), Delivered("6-1", "b", 1), Delivered("9-0", "a", 2)


@pytest.mark.parametrize(
    ("live", "again", "findings"),
    [
        ([A1, B1, A2], [A1, B1, A2], DeliveryFindings()),
        ([], [], DeliveryFindings()),
        ([A1, A2], [A1, B1, A2], DeliveryFindings(missing=1)),
        ([A1, B1, A2], [A1, B1], DeliveryFindings(unexpected=1)),
        ([A1, A1, B1], [A1, B1], DeliveryFindings(duplicated=1, unordered=1)),
        ([B1, A1], [A1, B1], DeliveryFindings(unordered=1)),
        ([replace(A1, revision=2)], [A1], DeliveryFindings(unknown=1)),
        ([replace(A1, kind="left")], [A1], DeliveryFindings(missing=1, unexpected=1)),
        ([Delivered("7-0", "a", 1)], [], DeliveryFindings(unexpected=1, unknown=1)),
    ],
)
def test_deliveries(
    live: list[Delivered], again: list[Delivered], findings: DeliveryFindings
) -> None:
    _, log = run()
    assert check_deliveries(live, again, {entry.sequence: entry for entry in log}) == findings


def test_twins_have_the_same_in_the_same_order() -> None:
    assert same_deliveries([A1, B1], [replace(A1, arrived=3.0, score=0.5), B1])
    for other in ([A1], [B1, A1], [A1, replace(B1, kind="left")], [A1, B1, A2]):
        assert not same_deliveries([A1, B1], other)


def test_what_is_held_is_the_latest() -> None:
    _, log = run()
    assert stale({"a": 2, "b": 1}, log) == 0
    assert stale({"a": 1, "b": 1}, log) == 1
    assert stale({"a": 2, "unheard of": 1}, log) == 1
    deleted = Logged("10-0", "data_deleted", "a", 3, "9-0", "", digest(b""))
    assert stale({"a": 2}, [*log, deleted]) == 1
    assert stale({"a": 3}, [*log, deleted]) == 1


def test_findings_add_up() -> None:
    one = DeliveryFindings(1, 2, 3, 4, 5)
    assert one + one == DeliveryFindings(2, 4, 6, 8, 10)


def test_hit_rates_count_only_needs_with_a_published_answer() -> None:
    ranked = [
        (Need("first", frozenset({"a"})), ["a", "b"]),
        (Need("third", frozenset({"c", "x"})), ["a", "b", "c"]),
        (Need("eleventh", frozenset({"b"})), ["a"] * 10 + ["b"]),
        (Need("not here", frozenset({"x"})), ["a"]),
        (Need("not judged"), ["a"]),
    ]
    rates = hit_rates(ranked, frozenset({"a", "b", "c"}))
    assert rates is not None
    assert (rates.judged, rates.at_1, rates.at_10) == (3, 1 / 3, 2 / 3)
    assert hit_rates(ranked[3:], frozenset({"a"})) is None


def test_percentiles_are_nearest_ranks() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.99) == 99
    assert percentile([7.0], 0.99) == 7
    assert percentile([1.0, 2.0], 0.5) == 1
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)

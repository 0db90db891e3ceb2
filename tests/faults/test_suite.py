"""Short seeds of the fault suite; and its verdict finds what it is there to find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from contex import Durability, Receipt

from tests.faults.suite.model import Entry, Follower, Injected, Model, Stretch
from tests.faults.suite.plan import FAULTS, Plan
from tests.faults.suite.run import run
from tests.faults.suite.verdict import Verdict, judge
from tests.thorough import thorough

QUICK_SEEDS = (2, 11, 9, 12)
"""One of each topology. The first two run every time: a failover of Sentinel, a cluster."""


@pytest.mark.parametrize("seed", [*QUICK_SEEDS[:2], *map(thorough, QUICK_SEEDS[2:])])
async def test_a_short_seed_keeps_what_is_promised(seed: int) -> None:
    done = await run(Plan.of(seed, quick=True))
    assert done.verdict.violations == []
    assert done.verdict.unnoticed == []
    assert done.acknowledged > 20
    assert done.delivered > done.acknowledged


def test_a_seed_decides_everything() -> None:
    plans = [Plan.of(seed) for seed in range(100)]
    assert plans == [Plan.of(seed) for seed in range(100)]
    assert len({plan.faults for plan in plans}) == 100
    made = {(plan.topology, fault.kind) for plan in plans for fault in plan.faults}
    assert made == {(topology, kind) for topology, kinds in FAULTS.items() for kind in kinds}


Log = list[Entry]


def _good() -> tuple[Model, Log]:
    """A publish of two events and one of the same key again, and one who followed."""
    model, log = Model(), []
    for number, keys in ((1, ("a", "b")), (2, ("a",))):
        request = model.request("p", "one", keys, Durability.FSYNC)
        request.sent = float(number)
        receipts = []
        for n, key in enumerate(keys):
            entry = Entry(f"{number}000-{n}", key, 1 if number == 1 else 2, (number, n))
            log.append(entry)
            receipts.append(Receipt(entry.sequence, entry.revision, Durability.FSYNC, False))
        model.answered(request, receipts)
        request.answers[0] = replace(request.answers[0], at=number + 0.5)
    stretch = Stretch("0", [replace(entry, at=3.0) for entry in log])
    model.followers.append(Follower("f", "p", stretches=[stretch]))
    model.began_ms = 0
    return model, log


def _lose(model: Model, log: Log) -> None:
    log.pop()
    model.followers[0].stretches[0].entries.pop()


def _forget(model: Model, log: Log) -> None:
    del model.followers[0].stretches[0].entries[1]


def _repeat(model: Model, log: Log) -> None:
    entries = model.followers[0].stretches[0].entries
    entries.append(entries[-1])


def _swap(model: Model, log: Log) -> None:
    model.followers[0].stretches[0].entries.reverse()


def _append_twice(model: Model, log: Log) -> None:
    twice = replace(log[-1], sequence="3000-0", revision=3)
    log.append(twice)
    model.followers[0].stretches[0].entries.append(twice)


def _append_in_part(model: Model, log: Log) -> None:
    _forget(model, log)
    del log[1]
    model.requests[0].answers.clear()


def _skip_a_revision(model: Model, log: Log) -> None:
    log[-1] = replace(log[-1], revision=3)


def _append_what_was_refused(model: Model, log: Log) -> None:
    model.requests[1].refusal = "REVISION_CONFLICT"


def _answer_otherwise(model: Model, log: Log) -> None:
    first = model.requests[1].answers[0]
    model.requests[1].answers.append(first)  # It does not say that it is a duplicate.


def _append_late(model: Model, log: Log) -> None:
    model.requests[0].sent, model.requests[1].sent = 2.0, 1.0
    first = model.requests[0].answers
    model.requests[0].answers, model.requests[1].answers = [], []
    model.requests.reverse()
    model.requests[1].answers = first
    model.requests[0].answers = [
        replace(first[0], at=1.5, receipts=(Receipt("2000-0", 2, Durability.FSYNC, False),))
    ]


@pytest.mark.parametrize(
    ("spoil", "kinds"),
    [
        (_lose, {"lost"}),
        (_forget, {"gap"}),
        (_repeat, {"double"}),
        (_swap, {"order"}),
        (_append_twice, {"double"}),
        (_append_in_part, {"order"}),
        (_skip_a_revision, {"revision"}),
        (_append_what_was_refused, {"phantom"}),
        (_answer_otherwise, {"double"}),
        (_append_late, {"order"}),
    ],
)
def test_what_is_broken_is_found(spoil: Callable[[Model, Log], None], kinds: set[str]) -> None:
    model, log = _good()
    assert judge(model, {"p": log}) == Verdict()
    spoil(model, log)
    found = judge(model, {"p": log})
    assert {kind for kind, _ in found.violations} == kinds


@pytest.mark.parametrize(
    ("loses", "since", "kinds"),
    [
        ({Durability.FSYNC}, 2.0, set()),
        ({Durability.FSYNC}, 2.6, {"lost"}),
        ({Durability.MEMORY}, 2.0, {"lost"}),
        (set(), 2.0, {"lost", "phantom"}),
    ],
)
def test_what_a_fault_may_take_is_told_apart(
    loses: set[Durability], since: float, kinds: set[str]
) -> None:
    model, log = _good()
    log.pop()
    model.faults.append(Injected("kill_primary", "it", 2.0, 4.0, frozenset(loses), since))
    found = judge(model, {"p": log})
    assert {kind for kind, _ in found.violations} == kinds
    assert len(found.unnoticed) == bool(loses)
    model.followers[0].stretches[0].ended = "LOG_CHANGED"
    model.followers[0].stretches.append(Stretch("0", log))
    found = judge(model, {"p": log})
    assert (found.unnoticed, found.told) == ([], 1)

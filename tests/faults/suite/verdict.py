"""Whether a run kept what is promised: of its log, its receipts and what its followers were given.

Pure: it looks at the model and at the logs as they were read in the end.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.faults.suite.model import (
    END,
    TOLD,
    Answer,
    Entry,
    Follower,
    Injected,
    Model,
    Request,
    Stretch,
    Tag,
    place,
)

KINDS = ("lost", "gap", "double", "order", "revision", "phantom", "odd")
_NEAR_S = 5.0


@dataclass(slots=True)
class Verdict:
    """What was found.

    Attributes:
        violations: Kind and evidence.
        lost: Acknowledged events that are gone, as their receipts and the faults allow.
        unnoticed: Followers that hold what the log has lost, and were not told.
        told: Those that were.
    """

    violations: list[tuple[str, str]] = field(default_factory=list)
    lost: int = 0
    unnoticed: list[str] = field(default_factory=list)
    told: int = 0

    def count(self, kind: str) -> int:
        """How often there was a violation of a kind."""
        return Counter(each for each, _ in self.violations)[kind]


def judge(model: Model, logs: Mapping[str, Sequence[Entry]]) -> Verdict:
    """The verdict on a run whose logs were read when all was quiet."""
    verdict = Verdict()
    verdict.violations += [("odd", text) for text in model.oddities]
    for project, log in logs.items():
        requests = [request for request in model.requests if request.project == project]
        verdict.violations += _of_log(log, requests)
        verdict.violations += _of_receipts(model, log, requests, verdict)
        for follower in model.followers:
            if follower.project == project:
                verdict.violations += _of_follower(model, log, follower, verdict)
    return verdict


def _of_log(log: Sequence[Entry], requests: Sequence[Request]) -> Iterator[tuple[str, str]]:
    """Ordered, each event once, revisions without a gap, requests whole and known."""
    latest: dict[str, Entry] = {}
    for before, entry in zip([None, *log[:-1]], log, strict=True):
        if before is not None and place(before.sequence) >= place(entry.sequence):
            yield "order", f"{entry} comes after {before} in the log"
        if entry.key:
            last = latest.get(entry.key)
            if entry.revision != (last.revision if last else 0) + 1:
                yield "revision", f"{entry} comes after {last}"
            latest[entry.key] = entry
    known = {request.number: request for request in requests}
    parts: dict[int, list[Entry]] = defaultdict(list)
    for entry in log:
        if entry.tag[0]:
            parts[entry.tag[0]].append(entry)
        elif entry.key:
            yield "phantom", f"{entry} was never published"
    for number, entries in parts.items():
        request = known.get(number)
        if request is None or request.refusal:
            yield "phantom", f"{entries[0]} is in the log, but {request} was refused"
            continue
        found = [entry.tag[1] for entry in entries]
        if len(found) > len(set(found)):
            yield "double", f"{request} was appended as {entries}"
        elif found != [*range(len(request.keys))]:
            yield "order", f"{request} was appended in part: {entries}"


def _of_receipts(
    model: Model, log: Sequence[Entry], requests: Sequence[Request], verdict: Verdict
) -> Iterator[tuple[str, str]]:
    """What was acknowledged is there, where its receipt says, or may be lost."""
    by_sequence = {entry.sequence: entry for entry in log}
    by_tag = {entry.tag: entry for entry in log}
    last_of: dict[str, tuple[Request, Answer]] = {}
    for request in requests:
        gone = False
        for answer in request.answers:
            for number, receipt in enumerate(answer.receipts):
                tag: Tag = (request.number, number)
                entry = by_sequence.get(receipt.sequence)
                if entry is not None and entry.tag == tag:
                    if entry.revision != receipt.revision:
                        yield "revision", f"{receipt} is of {entry}"
                    continue
                if any(fault.excuses(answer.at, receipt.durability) for fault in model.faults):
                    verdict.lost += 1
                    gone = True
                    continue
                yield "lost", _evidence(model, request, answer, number, by_tag.get(tag))
        first = request.answers[0] if request.answers else None
        if first is None or gone:
            continue
        for again in request.answers[1:]:
            same = [r.sequence for r in again.receipts] == [r.sequence for r in first.receipts]
            if not same or not again.receipts[0].duplicate:
                yield "double", f"{request} was answered otherwise when it was repeated"
        if request.expected is not None and first.receipts[0].revision != request.expected + 1:
            yield "revision", f"{request} expected another revision"
        before = last_of.get(request.publisher)
        if before is not None and before[1].at < request.sent:
            earlier, later = before[1].receipts[-1].sequence, first.receipts[0].sequence
            if place(earlier) >= place(later):
                yield "order", f"{request} was appended before {before[0]}"
        last_of[request.publisher] = (request, first)


def _evidence(
    model: Model, request: Request, answer: Answer, number: int, elsewhere: Entry | None
) -> str:
    receipt = answer.receipts[number]
    where = f"; it is at {elsewhere.sequence}" if elsewhere else ""
    return (
        f"{request.project}/{request.keys[number]} of request {request.number} ({request.publisher}"
        f", asked for {request.asked.name}), sent at {request.sent:.3f} s, acknowledged at "
        f"{answer.at:.3f} s: {receipt}, is not in the log{where}. {_around(model, answer.at)}"
    )


def _around(model: Model, at: float) -> str:
    near = [f for f in model.faults if f.began - _NEAR_S <= at <= f.mended + _NEAR_S]
    return "Faults around it: " + ("; ".join(map(shown, near)) or "none")


def shown(fault: Injected) -> str:
    """A fault for people."""
    lost = "/".join(sorted(d.name for d in fault.loses))
    may = f", may lose {lost} from {fault.loses_from:.3f}" if lost else ""
    return f"{fault.kind} of {fault.victim} {fault.began:.3f} to {fault.mended:.3f} s{may}"


def _of_follower(
    model: Model, log: Sequence[Entry], follower: Follower, verdict: Verdict
) -> Iterator[tuple[str, str]]:
    """In order, each event once, none missing, and nothing that the log does not hold."""
    name = f"{follower.name} of {follower.project}"
    in_log = {(entry.sequence, entry.tag) for entry in log}
    losing = [fault for fault in model.faults if fault.loses]
    verdict.told += sum(stretch.ended in TOLD for stretch in follower.stretches)
    for stretch in follower.stretches:
        received = stretch.entries
        for before, entry in itertools.pairwise(received):
            if place(before.sequence) >= place(entry.sequence):
                kind = "double" if before.sequence == entry.sequence else "order"
                yield kind, f"{name} was given {entry} after {before}. {_around(model, entry.at)}"
        gone = [entry for entry in received if (entry.sequence, entry.tag) not in in_log]
        told = stretch.ended in TOLD
        if gone and not told:
            if any(fault.loses_from <= gone[0].at for fault in losing):
                verdict.unnoticed.append(f"{name} holds {len(gone)} lost events, as {gone[0]}")
            else:
                yield "phantom", f"{name} holds {gone[0]}. {_around(model, gone[0].at)}"
        missing = _missing(log, follower, stretch, complete=stretch is follower.stretches[-1])
        if not missing:
            continue
        at = (place(missing[0].sequence)[0] - model.began_ms) / 1_000
        if any(f.loses_from <= at <= f.mended + _NEAR_S for f in losing) and (gone or told):
            continue  # Its position was of events that are gone: it is counted above.
        last = received[-1] if received else None
        yield (
            "gap",
            f"{name}, resumed {follower.resumed} times, was not given {len(missing)} events, the "
            f"first {missing[0]} at {at:.3f} s, the last {missing[-1]}; the last that it was given "
            f"was {last}. {_around(model, at)}",
        )


def _missing(
    log: Sequence[Entry], follower: Follower, stretch: Stretch, *, complete: bool
) -> list[Entry]:
    """What a stretch should have had; one that was ended may lack what comes after its end."""
    have = {entry.sequence for entry in stretch.entries}
    end = None
    if not complete:
        end = max((place(entry.sequence) for entry in stretch.entries), default=(0, 0))
    return [
        entry
        for entry in log
        if entry.sequence not in have
        and (follower.wants(entry.key) if entry.key else not follower.begins)
        and place(entry.sequence) > place(stretch.after)
        and (end is None or place(entry.sequence) <= end)
    ]


def is_complete(follower: Follower) -> bool:
    """Whether it was given the last event of its project."""
    entries = follower.stretches[-1].entries if follower.stretches else []
    return any(entry.key == END for entry in entries[-3:])

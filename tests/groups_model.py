"""What may happen to the deliveries that consumers share, as somebody sees it who only watches.

Everything is noted in the order in which it is seen: a message when it comes, a settlement as it is
said and as it is answered. So what holds is what holds however long either is on its way.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

Outcome = str
"""ack, skip, retry, park, extend, or give (back, as a consumer that leaves does)."""
ENDS = ("ack", "skip", "park")


class Delivery(NamedTuple):
    """What an agent is told, as its inbox has it.

    Attributes:
        redriven: The copy of it that was parked before.
    """

    sequence: tuple[int, int]
    data_key: str
    kind: str
    redriven: bool = False


@dataclass(eq=False)
class Claim:
    """A delivery that somebody was given.

    Attributes:
        after: When it was given at the earliest.
        until: To then nobody else can have it, unless its consumer lets go of it.
        free: Its consumer may have let go of it.
        over: It is lost for sure: what is said of it from now on must be answered so.
    """

    name: str
    delivery: Delivery
    attempt: int
    epoch: int
    consumer: str
    after: float
    until: float
    free: bool = False
    over: bool = False

    @property
    def ref(self) -> str:
        """The delivery in its id."""
        return self.name.partition(".")[0]


@dataclass
class Epoch:
    """The claims since the last time that all were cleared."""

    claims: dict[str, Claim] = field(default_factory=dict)
    last: dict[Delivery, Claim] = field(default_factory=dict)
    ended: dict[Delivery, float] = field(default_factory=dict)
    """Those of which may have been said by then that they are done or put aside."""
    done: dict[Delivery, str] = field(default_factory=dict)
    """Those that are acknowledged or skipped, and were answered so, with their refs: an agent may
    be told the same once more when its needs change."""
    first: dict[str, list[Delivery]] = field(default_factory=lambda: defaultdict(list))
    """By data key, in the order in which somebody got them first."""


class Book:
    """All that was seen of an agent.

    Args:
        calm: Nothing goes wrong with the store, so that each answer says what was done.
        orderly: Nobody vanishes, so that each attempt is seen.
        trims: Deliveries may be removed.
    """

    def __init__(self, *, calm: bool, orderly: bool, trims: bool = False) -> None:
        self.calm, self.orderly, self.trims = calm, orderly, trims
        self.epochs: dict[int, Epoch] = defaultdict(Epoch)
        self.faults: list[str] = []
        self.trace: list[str] = []
        self.acked: Counter[Delivery] = Counter()
        """How often each was acknowledged or skipped, and was answered so."""
        self.tries = 1_000
        """The fewest attempts after which anybody had deliveries parked."""
        self.cleared_before = 0
        """Epochs before this one are over."""
        self.acknowledged: list[tuple[float, tuple[int, int]]] = []
        """What was settled at once, and since when."""

    def note(self, now: float, text: str) -> None:
        self.trace.append(f"{now:.4f} {text}")

    def fault(self, now: float, text: str) -> None:
        self.note(now, "FAULT " + text)
        self.faults.append(text)

    # -- Claims ---------------------------------------------------------------------------------

    def received(self, now: float, claim: Claim) -> None:
        """A consumer was given a delivery."""
        delivery, epoch = claim.delivery, self.epochs[claim.epoch]
        self.note(now, f"{claim.consumer} gets {claim.name} {delivery}")
        before = epoch.last.get(delivery)
        if before is not None and before.ref != claim.ref:
            before = None  # It was parked and sent on its way again, or removed.
        if before is None:
            self._first(now, epoch, claim)
        elif claim.attempt < before.attempt:
            # It was on its way for longer than the later one.
            claim.over = claim.free = True
            epoch.claims[claim.name] = claim
            return
        else:
            if claim.attempt == before.attempt:
                self.fault(now, f"{claim} comes as {before} did")
            if self.orderly and claim.attempt > before.attempt + 1:
                self.fault(now, f"{claim} comes after {before}")
            if not before.free and now < before.until and not self._may_have_ended(delivery, epoch):
                self.fault(now, f"{claim} comes {before.until - now:.3f} s early: {before}")
            before.over = True
        if epoch.done.get(delivery) == claim.ref and not self.trims:
            self.fault(now, f"{claim} is done")
        for other, had in epoch.last.items():
            if (
                other.data_key == delivery.data_key != ""
                and other != delivery
                and not self._may_have_ended(other, epoch)
                and not self.may_be_exhausted(had)
            ):
                self.fault(now, f"{claim} comes beside {had}")
        epoch.ended.pop(delivery, None)
        epoch.last[delivery] = epoch.claims[claim.name] = claim

    def _first(self, now: float, epoch: Epoch, claim: Claim) -> None:
        delivery = claim.delivery
        if self.orderly and claim.attempt != 1:
            self.fault(now, f"{claim} is no first attempt")
        if delivery.data_key and not delivery.redriven:
            of_key = epoch.first[delivery.data_key]
            skipped = any(delivery.sequence <= upto for _, upto in self.acknowledged)
            if of_key and of_key[-1].sequence > delivery.sequence and not skipped:
                self.fault(now, f"{claim} comes after {of_key[-1]}")
            of_key.append(delivery)

    def may_be_exhausted(self, claim: Claim) -> bool:
        """Whether it may have been parked as it was tried too often; attempts may be unseen."""
        return claim.attempt >= self.tries or (not self.orderly and self.tries < 100)

    def _may_have_ended(self, delivery: Delivery, epoch: Epoch) -> bool:
        return (
            self.trims
            or delivery in epoch.ended
            or any(delivery.sequence <= upto for _, upto in self.acknowledged)
        )

    # -- What is said of them -------------------------------------------------------------------

    def said(
        self, now: float, outcome: Outcome, names: list[str], until: float = 0.0
    ) -> list[bool]:
        """Something is said of claims; tells which of them are lost for sure.

        Args:
            until: How long they are to last, which may be less than they would.
        """
        self.note(now, f"{outcome} {' '.join(names)}")
        lost = []
        for name in names:
            claim = self._claim(name)
            lost.append(
                claim.over
                or claim.epoch < self.cleared_before
                or self.epochs[claim.epoch].done.get(claim.delivery) == claim.ref
            )
            if outcome in ENDS:
                self.epochs[claim.epoch].ended.setdefault(claim.delivery, now)
            if outcome == "extend":
                claim.until = min(claim.until, until)
            else:
                claim.free = True
        return lost

    def answered(
        self,
        now: float,
        outcome: Outcome,
        names: list[str],
        surely_lost: list[bool],
        lost: set[str],
        refused: set[str],
        until: float,
    ) -> None:
        """The answer has come."""
        self.note(now, f"answer {outcome} {' '.join(names)} lost {lost} refused {refused}")
        for name, sure in zip(names, surely_lost, strict=True):
            claim = self._claim(name)
            if name in lost:
                claim.over = claim.free = True
                continue
            if sure and self.calm:
                self.fault(now, f"{outcome} of {claim} is answered as done")
            if name in refused:
                continue
            if outcome in ("ack", "skip"):
                self.acked[claim.delivery] += 1
                self.epochs[claim.epoch].done[claim.delivery] = claim.ref
            if outcome == "extend":
                claim.until = until
            else:
                claim.over = True

    def let_go(self, now: float, names: list[str], why: str) -> None:
        """Consumers may have lost these."""
        self.note(now, f"{why} {' '.join(names)}")
        for name in names:
            self._claim(name).free = True

    def _claim(self, name: str) -> Claim:
        return self.epochs[epoch_of(name)].claims[name]

    # -- At the end -----------------------------------------------------------------------------

    def check(
        self,
        inbox: list[Delivery],
        put_aside: set[Delivery],
        since: int,
        after: tuple[int, int],
    ) -> None:
        """Nothing is lost of what follows a place, since an epoch."""
        repeated = {delivery for delivery, count in Counter(inbox).items() if count > 1}
        ended = {
            delivery._replace(redriven=False)
            for number, epoch in self.epochs.items()
            if number >= since
            for delivery in epoch.ended
        }
        for delivery in inbox:
            if delivery.sequence <= after or delivery in repeated:
                continue
            skipped = any(delivery.sequence <= upto for _, upto in self.acknowledged)
            if not (delivery in ended or delivery in put_aside or skipped):
                self.faults.append(f"{delivery} is lost")
            for number, epoch in self.epochs.items():
                if number >= since and self.calm and len(self.epochs) == 1:
                    copies = [d for d in epoch.done if d._replace(redriven=False) == delivery]
                    if len(copies) > 1 and delivery in epoch.done and not skipped:
                        self.faults.append(f"{delivery} is done twice")


def epoch_of(name: str) -> int:
    """The epoch that a delivery's id names."""
    return int(name.rpartition(".")[2])

"""What a seed stands for: a topology, how its store syncs, and the faults in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

_OF_SERVERS = ("kill_server", "pause_server")
_OF_ONE_STORE = ("kill_store", "pause_store", "full_store")
_OF_NODES = ("kill_replica", "pause_replica", "cut_clients", "full_store")
_OF_PRIMARIES = ("kill_primary", "pause_primary", "hand_over")

FAULTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bundled": (*_OF_SERVERS, *_OF_ONE_STORE),
        "pair": (*_OF_SERVERS, *_OF_ONE_STORE, "lose_power", "cut", "delay", "silence", "away"),
        "sentinel": (*_OF_SERVERS, *_OF_PRIMARIES, "coordinate", *_OF_NODES),
        "cluster": (*_OF_SERVERS, *_OF_PRIMARIES, *_OF_NODES, "move_slots"),
        "workers": (*_OF_SERVERS, *_OF_ONE_STORE),
    }
)
"""What may go wrong in a topology; the methods of its lab have these names."""

QUICK: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bundled": ("kill_store", "kill_server", "full_store"),
        "pair": ("lose_power", "cut", "silence", "kill_store", "kill_server"),
        "sentinel": ("kill_replica", "cut_clients", "pause_replica"),
        "cluster": ("move_slots", "cut_clients", "pause_replica"),
    }
)
"""Likewise, of short runs: nobody is promoted, so nothing that was read may be lost."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong, once what went wrong before is mended.

    Attributes:
        kind: What; a method of the lab.
        after_s: How long nothing is wrong before.
        for_s: How long it lasts.
        pick: Chooses whom it is about.
        beside: A fault of a server at the same time; empty: none.
    """

    kind: str
    after_s: float
    for_s: float
    pick: int
    beside: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a seed decides.

    Attributes:
        fsync: The store's `appendfsync`.
        replicas: How many each primary has; that many have to confirm.
    """

    seed: int
    topology: str
    fsync: str
    replicas: int
    faults: tuple[Fault, ...]
    quick: bool = False

    @classmethod
    def of(cls, seed: int, *, quick: bool = False) -> Plan:
        """The plan of a seed; a quick one has fewer and shorter faults."""
        rng = Random(seed)
        kinds = QUICK if quick else FAULTS
        topology = [*kinds][seed % len(kinds)]
        is_own = topology not in ("bundled", "workers")
        fsync = "everysec" if is_own and not quick and rng.random() < 0.3 else "always"
        replicas = {"sentinel": 1 if quick else rng.choice((1, 2)), "cluster": 1}.get(topology, 0)
        count = 2 if quick else rng.randint(2, 4)
        faults = [_fault(rng, kinds[topology], quick=quick) for _ in range(count)]
        return cls(seed, topology, fsync, replicas, tuple(faults), quick)


def _fault(rng: Random, kinds: tuple[str, ...], *, quick: bool) -> Fault:
    kind, pick = rng.choice(kinds), rng.randrange(1 << 16)
    if quick:
        return Fault(kind, rng.uniform(0.2, 0.5), rng.uniform(0.2, 0.5), pick)
    after, lasts = rng.uniform(0.5, 2.5), rng.choice((0.5, 2, 4, 7)) * rng.uniform(0.3, 1)
    if rng.random() < 0.08:
        return Fault(kind, after, rng.uniform(10, 60), pick)
    is_both = kind not in _OF_SERVERS and rng.random() < 0.25
    return Fault(kind, after, lasts, pick, rng.choice(_OF_SERVERS) if is_both else "")

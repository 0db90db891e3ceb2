"""What is written, and how it is timed. Peers' clients run this too: the standard library only."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from typing import NamedTuple

PAYLOAD_BYTES = 200
KEYS = 64
EVENT_TYPE = "data_published"
_FIRST = 1_000_000_000
_EACH_WRITER = 10_000_000
_BEGIN, _END = b'{"base_url":"https://api.example.com","timeout":%d,"note":"', b'"}'


@dataclass(frozen=True, slots=True)
class Load:
    """Writers that send call after call, until their time is up.

    Attributes:
        batch: Events of a call.
        seconds: How long a writer begins another call.
    """

    name: str
    writers: int
    batch: int
    seconds: float


class Timed(NamedTuple):
    """What a load came to: until everything was answered, with the client's processor time."""

    events: int
    seconds: float
    client_seconds: float


class Run:
    """A load under way."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._cpu_s = _cpu_s()
        self._start_s = time.perf_counter()
        self.events = 0

    def batches(self, writer: int) -> Iterator[list[tuple[str, bytes]]]:
        """What a writer sends: the key and the payload of each event."""
        size, end_s = self._load.batch, self._start_s + self._load.seconds
        for start in count(writer * _EACH_WRITER, size):
            if time.perf_counter() >= end_s:
                return
            yield [event(number) for number in range(start, start + size)]
            self.events += size

    def report(self) -> None:
        """Prints what was measured, for `parsed`."""
        seconds = time.perf_counter() - self._start_s
        timed = Timed(self.events, seconds, _cpu_s() - self._cpu_s)
        print(json.dumps(timed._asdict()), flush=True)


def event(number: int) -> tuple[str, bytes]:
    """A key and a payload of `PAYLOAD_BYTES`; only a number in it differs."""
    begin = _BEGIN % (_FIRST + number)
    return f"api_config_{number % KEYS}", begin.ljust(PAYLOAD_BYTES - len(_END), b"x") + _END


def told() -> tuple[str, Load]:
    """The server and the load that a client is told on its command line."""
    return sys.argv[1], Load(**json.loads(sys.argv[2]))


def as_argument(load: Load) -> str:
    """What `told` reads."""
    return json.dumps(asdict(load))


def wait_for_go() -> None:
    """Says that everything is ready, and waits until the clock may start."""
    print("ready", flush=True)
    sys.stdin.readline()


def parsed(line: str) -> Timed:
    """What a client printed.

    Raises:
        ValueError: It is something else.
    """
    try:
        return Timed(**json.loads(line))
    except (TypeError, ValueError):
        raise ValueError(f"no measurement: {line!r}") from None


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

"""Retention: where the events of a project are kept, and for how long."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Self

import orjson

from contex_server.kernel.errors import Checks, ContexError, Reason, invalid_field
from contex_server.kernel.failures import Failures
from contex_server.log.projects import ProjectStore

_OVER = 1.5
_MAX_SECONDS = 3_155_760_000
_MAX_COUNT = 2**53
_MAX_REVISIONS = 1_000_000


def is_over(used: float, limit: float, segment: int) -> bool:
    """Whether the store holds far more of a project than its retention allows: half as much
    again and a segment, as events leave by segments."""
    return used > _OVER * limit + segment


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a project is kept. 0 sets no limit, None leaves it to the server's default.

    Attributes:
        store_seconds: Events older than this move from the store to the archive, ...
        store_events: ... as do the oldest above this number ...
        store_bytes: ... or above this number of bytes, whichever limit is reached first.
        archive_seconds: Events older than this are removed from the archive for good.
        keep_revisions: Archived events lose their payloads once their data key has this number of
            later ones.
        legal_hold: Whether nothing may be removed or erased, regardless of the rest.
    """

    store_seconds: int | None = None
    store_events: int | None = None
    store_bytes: int | None = None
    archive_seconds: int | None = None
    keep_revisions: int | None = None
    legal_hold: bool = False

    def check(self) -> Self:
        """Checks every field against its limit, and returns it.

        Raises:
            ContexError: INVALID_FIELD.
        """
        with Checks() as check:
            for name, value in asdict(self).items():
                check(_check_field, name, value)
        return self

    def over(self, defaults: Retention) -> Retention:
        """Fills in the defaults."""
        own = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(defaults, **own)

    def encode(self) -> bytes:
        """As it is stored: without what is not set, so that older servers read what they know."""
        own = {name: value for name, value in asdict(self).items() if value is not None}
        return orjson.dumps(own)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Reads what `encode` wrote; b"" leaves everything to the defaults.

        Raises:
            ValueError: It is nothing that `encode` wrote.
        """
        if not data:
            return cls()
        try:
            return cls(**orjson.loads(data)).check()
        except (TypeError, ContexError) as error:
            raise ValueError(f"no retention: {error}") from error

    @classmethod
    def is_readable(cls, data: bytes) -> bool:
        """Whether `decode` reads it."""
        try:
            cls.decode(data)
        except ValueError:
            return False
        return True


def _check_field(name: str, value: object) -> None:
    place = f"retention.{name}"
    if name == "legal_hold":
        if not isinstance(value, bool):
            raise invalid_field(place, "must be true or false")
        return
    limit = _MAX_SECONDS if name.endswith("seconds") else _MAX_COUNT
    limit = _MAX_REVISIONS if name == "keep_revisions" else limit
    if value is not None and (type(value) is not int or not 0 <= value <= limit):
        raise invalid_field(place, f"must be 0 to {limit}, not {value!r:.20}")


@dataclass(slots=True)
class RetentionStore:
    """The retention of every project.

    Attributes:
        defaults: Apply where a project sets nothing; none of them is None.
    """

    store: ProjectStore
    defaults: Retention
    _failures: Failures = field(default_factory=lambda: Failures("retention_damaged"))

    async def own(self, project: str) -> Retention:
        """The retention that the project sets.

        Of one that can't be read nothing is known but that somebody set it: until it is set
        again, the defaults apply and nothing is removed.
        """
        try:
            retention = Retention.decode(await self.store.retention(project))
        except ValueError:
            told = "the stored retention can't be read: the defaults apply, with legal hold"
            self._failures.failed(project, ContexError(Reason.INTERNAL, told))
            return Retention(legal_hold=True)
        self._failures.worked(project)
        return retention

    async def of(self, project: str) -> Retention:
        """The retention that applies; nothing in it is None."""
        return (await self.own(project)).over(self.defaults)

    async def check_not_on_hold(self, project: str) -> None:
        """Refuses with LEGAL_HOLD if the project is on legal hold."""
        if (await self.own(project)).legal_hold:
            raise ContexError(
                Reason.LEGAL_HOLD,
                f"project {project!r} is on legal hold: nothing may be removed or erased",
            )

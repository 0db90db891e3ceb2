"""What matching needs of the store: encodings of texts, what decides, and its backgrounds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Protocol

from contex_server.kernel.model import Sequence


class MatchStore(Protocol):
    """Encodings by model and text digest. See `EventLog` for errors."""

    async def vectors(
        self, project: str, model: str, digests: Iterable[bytes]
    ) -> dict[bytes, bytes]:
        """The stored encodings of the given texts under a model."""

    async def missing_vectors(
        self, project: str, model: str, digests: Iterable[bytes]
    ) -> set[bytes]:
        """The given digests that have no encoding under a model."""

    async def put_vectors(self, project: str, model: str, vectors: Mapping[bytes, bytes]) -> None:
        """Stores encodings; existing ones are kept."""

    async def drop_vectors(self, project: str, model: str, digests: Iterable[bytes]) -> None:
        """Removes encodings."""

    def all_vectors(self, project: str, model: str) -> AsyncIterator[dict[bytes, bytes]]:
        """All encodings under a model, in chunks."""

    async def model(self, project: str) -> str:
        """The model that decides in a project; "" if nothing has been stored yet.

        It is the first model that anything was stored under, until `change_model`.
        """

    async def change_model(
        self, project: str, expected: str, model: str, event_type: str, body: bytes
    ) -> Sequence | None:
        """Makes another model decide, and appends the event that announces it.

        The encodings and backgrounds under the old model are removed; the new one starts without
        a background. Returns the event's sequence, or None if `expected` is no longer the model
        that decides.
        """

    async def background(
        self, project: str, scoring_model: str, as_of: Sequence | None = None
    ) -> tuple[Sequence, bytes] | None:
        """The packed background that was the latest as of a moment, with its event's sequence.

        None if there was none; without `as_of` the latest of all.
        """

    async def set_background(
        self,
        project: str,
        scoring_model: str,
        size: int,
        packed: bytes,
        event_type: str,
        body: bytes,
    ) -> Sequence | None:
        """Stores a background, and appends the event from which on it holds, in one step.

        Returns the event's sequence, or None if `scoring_model` is no longer what decides, or if it
        has a background of this size or a larger one.
        """

    async def backgrounds(self, project: str, scoring_model: str) -> dict[Sequence, bytes]:
        """Every background of a scoring model, by its event's sequence."""

    async def put_backgrounds(
        self, project: str, scoring_model: str, backgrounds: Mapping[Sequence, bytes], size: int
    ) -> None:
        """Stores backgrounds whose events are in the log, or about to be; the largest is of `size`.

        For imports; existing ones are kept.
        """

    async def drop_backgrounds(
        self, project: str, scoring_model: str, sequences: Iterable[Sequence]
    ) -> None:
        """Removes backgrounds whose events never came into the log."""

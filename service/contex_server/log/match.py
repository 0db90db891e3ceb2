"""What matching needs of the store: encodings of texts, and the model that decides."""

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

        The encodings under the old model are removed. Returns the event's sequence, or None
        if `expected` is no longer the model that decides.
        """

"""Encodings by text digest: computed once per project, text and model, and kept in the store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import structlog
from cachetools import LRUCache, TTLCache

from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason, embedder_unavailable
from contex_server.kernel.failures import Failures
from contex_server.kernel.model import Event
from contex_server.kernel.slices import sliced
from contex_server.log.match import MatchStore
from contex_server.log.port import EventLog
from contex_server.matching.describe import INLINE_BYTES, Description, describe
from contex_server.matching.embedders.port import Role
from contex_server.matching.encoding import (
    Encoding,
    Recipe,
    as_stored,
    description_recipe,
    pack,
    unpack_finite,
)
from contex_server.matching.formats.passages import PayloadMalformed
from contex_server.matching.models import Models
from contex_server.matching.rules import need_recipe_of

log = structlog.get_logger(__name__)

_CACHED_BYTES = 48 * 1024 * 1024
_KNOWN_DIGESTS = 200_000
_KNOWN_MODELS = 10_000
_MODEL_TTL_S = 30.0
_Place = tuple[str, int, str, bytes]
_INLINE_PASSAGES = 4
"""The terms of more take over 2 ms, and are found in a thread."""


class Embeddings:
    """Finds the encoding of a text: in memory, in the store, or by the model.

    Methods raise a ContexError EMBEDDER_UNAVAILABLE or STORE_UNAVAILABLE, except as they say.
    """

    def __init__(
        self, event_log: EventLog, store: MatchStore, models: Models, *, timeout_s: float
    ) -> None:
        """Creates it; `timeout_s` is how long a publish waits for the model."""
        self._log = event_log
        self._store = store
        self.models = models
        self._timeout_s = timeout_s
        self._failures = Failures("encoding_set_aside")
        self._cache: LRUCache[_Place, Encoding] = LRUCache(_CACHED_BYTES, getsizeof=_size)
        # What the store is known to have; it may have more.
        self._stored: LRUCache[_Place, bool] = LRUCache(_KNOWN_DIGESTS)
        self._forgotten: dict[str, int] = {}
        """How often each project was forgotten, if ever."""
        self._deciding: TTLCache[str, str] = TTLCache(_KNOWN_MODELS, _MODEL_TTL_S)

    async def scoring_model_of(self, project: str, *, fresh: bool = False) -> str:
        """What decides in a project; the configured one if this process lacks its model.

        Without `fresh` this may lag behind another process by `_MODEL_TTL_S`.
        """
        known = None if fresh else self._deciding.get(project)
        if known is None:
            known = await self._store.model(project)
            if known:
                self._deciding[project] = known
        return self.models.usable(known) if known else self.models.configured_id

    def model_changed(self, project: str, model: str) -> None:
        """The log says that another model decides from now on."""
        self._deciding[project] = model

    def forget(self, project: str) -> None:
        """Nothing that is cached of a project is found again; it leaves the caches by its age."""
        self._deciding.pop(project, None)
        self._forgotten[project] = self._forgotten.get(project, 0) + 1

    def _place(self, project: str, model: str, digest: bytes) -> _Place:
        """Where the caches have an encoding."""
        return project, self._forgotten.get(project, 0), model, digest

    async def for_append(
        self, project: str, texts: Mapping[bytes, Description]
    ) -> tuple[str, dict[bytes, bytes]]:
        """The model, and the packed encodings that an append has to add, by digest.

        Never fails: if the model is late or broken the event is appended without them, and
        whoever needs an encoding first computes it (`of_events`).
        """
        model = self._deciding.get(project, "")
        missing = {
            d: t for d, t in texts.items() if self._place(project, model, d) not in self._stored
        }
        if not missing:
            return model, {}
        try:
            async with asyncio.timeout(self._timeout_s):
                model = await self.scoring_model_of(project)
                stored = await self.stored(project, model, missing)
                recipes = {
                    d: await _recipe(t) async for d, t in sliced(missing.items()) if d not in stored
                }
                encodings = await self._embed(project, model, recipes, Role.DATUM)
        except (ContexError, TimeoutError) as error:
            told = error.message if isinstance(error, ContexError) else "no answer in time"
            log.warning("embedding_late", project=project, texts=len(texts), error=told)
            return model, {}
        return model, await _packed(encodings)

    def appended(self, project: str, model: str, digests: Iterable[bytes]) -> None:
        """Remembers that the store has these encodings now."""
        for digest in digests:
            self._stored[self._place(project, model, digest)] = True

    async def of_needs(
        self, project: str, model: str, needs: Mapping[bytes, str], *, store: bool = True
    ) -> dict[bytes, Encoding]:
        """The encodings of needs, by digest; stores missing ones unless they are queries."""
        encodings = await self.stored(project, model, needs)
        recipe = need_recipe_of(model)
        recipes = {d: recipe(text) for d, text in needs.items() if d not in encodings}
        encode = self._compute if store else self._embed
        return encodings | await encode(project, model, recipes, Role.NEED)

    async def of_events(
        self, project: str, model: str, events: Iterable[Event], *, store: bool = True
    ) -> dict[bytes, Encoding]:
        """The encodings of events, by digest; stores missing ones if it is to.

        A deletion has the digest of the deleted text, and no encoding if that can't be read any
        more: what is left of it must not be taken for the text.
        """
        by_digest: dict[bytes, Event] = {}
        for event in events:
            known = by_digest.get(event.text_digest)
            if event.text_digest and (known is None or known.deletes):
                by_digest[event.text_digest] = event
        encodings = await self.stored(project, model, by_digest)
        absent = [event for digest, event in by_digest.items() if digest not in encodings]
        recipes = await self.recipes(project, absent)
        encode = self._compute if store else self._embed
        return encodings | await encode(project, model, recipes, Role.DATUM)

    async def put(self, project: str, model: str, encodings: Mapping[bytes, Encoding]) -> None:
        """Stores encodings that the store lacks; may raise STORE_FULL."""
        packed = await _packed(encodings)
        await self._store.put_vectors(project, model, packed)
        self.appended(project, model, packed)

    async def recipes(self, project: str, events: Iterable[Event]) -> dict[bytes, Recipe]:
        """How the texts of events become encodings, by digest; of those that can be read."""
        found: dict[bytes, Recipe] = {}
        async for event in sliced(events):
            described = await self._described(project, event)
            digest = event.text_digest
            if digest and digest == described.text_digest and not described.deletes:
                found[digest] = await _recipe(await _description(described))
        return found

    async def compute(
        self, project: str, model: str, recipes: Mapping[bytes, Recipe]
    ) -> dict[bytes, Encoding]:
        """The encodings of data that the store lacks, by digest; stores them."""
        return await self._compute(project, model, recipes, Role.DATUM)

    async def stored(
        self, project: str, model: str, digests: Iterable[bytes]
    ) -> dict[bytes, Encoding]:
        """The encodings that are cached or stored."""
        encodings: dict[bytes, Encoding] = {}
        absent: list[bytes] = []
        for digest in digests:
            encoding = self._cache.get(self._place(project, model, digest))
            if encoding is None:
                absent.append(digest)
            else:
                encodings[digest] = encoding
        packed = await self._store.vectors(project, model, absent)
        async for digest in sliced(absent):
            encoding = self._unpacked(project, model, packed.get(digest))
            if encoding is not None:
                self._stored[self._place(project, model, digest)] = True
                encodings[digest] = self._keep(project, model, digest, encoding)
            else:
                self._stored.pop(self._place(project, model, digest), None)
        return encodings

    def _unpacked(self, project: str, model: str, packed: bytes | None) -> Encoding | None:
        """A stored encoding; None, and logged, if it is damaged: it is computed anew."""
        if packed is None:
            return None
        try:
            encoding = unpack_finite(packed)
            if model in self.models.ids():
                dimension = self.models.embedder(model).dimension
                if encoding.vectors.shape[1] != dimension:
                    raise ValueError(f"not of {dimension} dimensions")
        except ValueError as error:
            self._failures.failed(project, error)
            return None
        return encoding

    async def description(self, project: str, event: Event) -> Description:
        """The texts that an event is matched by; for a deletion, those of the deleted datum."""
        return await _description(await self._described(project, event))

    async def _described(self, project: str, event: Event) -> Event:
        """The event that has the texts of one: for a deletion, an earlier one if it is there."""
        while event.deletes and event.previous_sequence is not None:
            (entry,) = await self._log.get(project, [event.previous_sequence])
            if entry is None:
                break
            event = event_codec.decode(entry)
        return event

    async def _compute(
        self, project: str, model: str, recipes: Mapping[bytes, Recipe], role: Role
    ) -> dict[bytes, Encoding]:
        encodings = await self._embed(project, model, recipes, role)
        if encodings:
            try:
                await self.put(project, model, encodings)
            except ContexError as error:
                if error.reason is not Reason.STORE_FULL:
                    raise  # A full store keeps no encodings, but reads go on.
        return encodings

    async def _embed(
        self, project: str, model: str, recipes: Mapping[bytes, Recipe], role: Role
    ) -> dict[bytes, Encoding]:
        texts = [text for recipe in recipes.values() for text in recipe.texts]
        if not texts:
            return {}
        try:
            rows = await self.models.embedder(model).embed(texts, role)
        except Exception as error:
            raise embedder_unavailable(error) from error
        encodings: dict[bytes, Encoding] = {}
        at = 0
        async for digest, recipe in sliced(recipes.items()):
            vectors = rows[at : at + len(recipe.texts)]
            at += len(recipe.texts)
            # Rounded as the store does, so that every process scores the same.
            encoding = as_stored(recipe.encoding(vectors))
            encodings[digest] = self._keep(project, model, digest, encoding)
        return encodings

    def _keep(self, project: str, model: str, digest: bytes, encoding: Encoding) -> Encoding:
        if _size(encoding) <= _CACHED_BYTES:
            self._cache[self._place(project, model, digest)] = encoding
        return encoding


async def _description(event: Event) -> Description:
    if len(event.payload) > INLINE_BYTES:
        return await asyncio.to_thread(describe_event, event)
    return describe_event(event)


async def _recipe(description: Description) -> Recipe:
    if len(description.passages) <= _INLINE_PASSAGES:
        return description_recipe(description)
    return await asyncio.to_thread(description_recipe, description)


async def _packed(encodings: Mapping[bytes, Encoding]) -> dict[bytes, bytes]:
    return {digest: pack(encoding) async for digest, encoding in sliced(encodings.items())}


def describe_event(event: Event) -> Description:
    """The texts that an event is matched by."""
    key, text, event_type = event.data_key, event.description, event.event_type
    try:
        return describe(key, text, event.payload, event.content_type, event_type)
    except PayloadMalformed:
        # Accepted by an earlier version, or imported: describes the rest.
        return describe(key, text, b"", "application/octet-stream", event_type)


def _size(encoding: Encoding) -> int:
    return encoding.vectors.nbytes + sum(5 * len(t.ids) + 300 for t in encoding.terms) + 200

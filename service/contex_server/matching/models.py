"""The embedding models of this process: loading them, and the background of each."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import structlog

from contex_server.kernel.config import EmbedderSettings, Settings
from contex_server.kernel.errors import embedder_unavailable
from contex_server.matching.background import Model, Prior, shipped_prior, shipped_texts
from contex_server.matching.embedders import create, load
from contex_server.matching.embedders.minilm import EARLIER_MODEL_ID, MODEL_ID, EarlierMiniLM
from contex_server.matching.embedders.port import Embedder, Role, unit

log = structlog.get_logger(__name__)

_OF_SHIPPED_PRIOR = (MODEL_ID, EARLIER_MODEL_ID)
"""It was computed with the earlier model; their vectors of a text have a cosine of 0.999."""


class Models:
    """The configured model, and earlier ones that still serve projects embedded with them."""

    def __init__(self, configured: Embedder, others: tuple[Embedder, ...] = ()) -> None:
        self._embedders = {e.model_id: e for e in (*others, configured)}
        self.configured_id = configured.model_id
        self._priors: dict[str, asyncio.Task[Prior]] = {}

    def ids(self) -> list[str]:
        """The models that this process has."""
        return list(self._embedders)

    def usable(self, model_id: str) -> str:
        """The model if this process has it, otherwise the configured one."""
        return model_id if model_id in self._embedders else self.configured_id

    def embedder(self, model_id: str) -> Embedder:
        """The embedder of a model that this process has."""
        return self._embedders[model_id]

    async def get(self, model_id: str) -> Model:
        """A model that this process has, with its background; raises EMBEDDER_UNAVAILABLE."""
        embedder = self._embedders[model_id]
        task = self._priors.get(model_id)
        if task is None:
            task = self._priors[model_id] = asyncio.create_task(_prior(embedder))
        try:
            prior = await asyncio.shield(task)
        except Exception as error:
            if self._priors.get(model_id) is task:
                del self._priors[model_id]
            raise embedder_unavailable(error) from error
        return Model(model_id, prior)

    async def close(self) -> None:
        """Cancels what is being computed; the owner of the embedders closes them."""
        for task in self._priors.values():
            task.cancel()
        await asyncio.gather(*self._priors.values(), return_exceptions=True)


async def open_models(
    settings: Settings,
    stack: AsyncExitStack,
    embedder: Embedder | None = None,
    previous: tuple[Embedder, ...] = (),
) -> Models:
    """Loads the configured model and those that may still serve some projects.

    The caller may have loaded the configured embedder and previous ones, and closes those.

    Raises:
        StartupError: A model can't be used.
    """
    if embedder is None:
        embedder = await load(settings.embedder, stack)
    others = list(previous)
    former = settings.previous_embedder
    if former is not None and former != settings.embedder:
        others.append(await load(former, stack))
    # Their identity is known without loading them; that happens when they have to embed something.
    builtin: list[Embedder] = [EarlierMiniLM()]
    if settings.embedder.kind != "builtin":
        builtin.append(create(EmbedderSettings()))
    for other in builtin:
        stack.push_async_callback(other.close)
    others += builtin
    models = Models(embedder, tuple(others))
    stack.push_async_callback(models.close)
    return models


async def _prior(embedder: Embedder) -> Prior:
    shipped = shipped_prior()
    if embedder.model_id in _OF_SHIPPED_PRIOR:
        return shipped
    texts = shipped_texts()
    log.info("embedding_background", model=embedder.model_id, texts=len(texts))
    return shipped.under(unit(await embedder.embed(texts, Role.DATUM)))

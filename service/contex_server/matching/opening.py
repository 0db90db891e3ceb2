"""Loads the embedding models that the settings name."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import AsyncExitStack

from contex_server.kernel.config import EmbedderSettings, Settings
from contex_server.kernel.errors import StartupError
from contex_server.matching.embedders import create
from contex_server.matching.embedders.port import Embedder, ModelCorrupt, ModelInvalid
from contex_server.matching.models import Models


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
    if settings.embedder.kind != "builtin":
        # Its identity is known without loading it; that happens when it has to embed something.
        others.append(create(EmbedderSettings()))
        stack.push_async_callback(others[-1].close)
    models = Models(embedder, tuple(others))
    stack.push_async_callback(models.close)
    return models


async def load(
    settings: EmbedderSettings, stack: AsyncExitStack, loading: Future[Embedder] | None = None
) -> Embedder:
    """Loads a model, which the stack closes.

    Args:
        settings: Which model.
        stack: Closes it.
        loading: The model, if it is being loaded already.

    Raises:
        StartupError: It can't be used.
    """
    try:
        if loading is not None:
            embedder = await asyncio.wrap_future(loading)
            stack.push_async_callback(embedder.close)
            return embedder
        embedder = create(settings)
        stack.push_async_callback(embedder.close)
        await embedder.start()
    except (ModelInvalid, ModelCorrupt, OSError) as error:
        raise StartupError(f"the embedding model can't be used: {error}") from error
    return embedder

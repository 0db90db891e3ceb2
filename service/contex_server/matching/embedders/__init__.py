"""Embedding models: the port, its implementations, and the one that the settings name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, nullcontext

from contex_server.kernel.config import EmbedderSettings
from contex_server.kernel.errors import StartupError
from contex_server.kernel.waiting import announced
from contex_server.matching.embedders.port import Embedder, ModelCorrupt, ModelInvalid


def create(settings: EmbedderSettings) -> Embedder:
    """The embedder that the settings name, not started yet."""
    # Imported here, since each brings libraries that the others don't need.
    if settings.kind == "local":
        from contex_server.matching.embedders.local import LocalModel, Use

        assert settings.path is not None
        return LocalModel(
            settings.path,
            Use(settings.pooling, settings.need_prefix, settings.datum_prefix, settings.max_tokens),
        )
    if settings.kind == "openai":
        from contex_server.matching.embedders.openai import OpenAIEmbedder

        return OpenAIEmbedder(settings)
    from contex_server.matching.embedders.minilm import MiniLM

    return MiniLM()


async def load(
    settings: EmbedderSettings,
    stack: AsyncExitStack,
    meanwhile: Callable[[], Awaitable[object]] | None = None,
) -> Embedder:
    """Loads a model; the stack closes it.

    Args:
        meanwhile: What else is done while the model is loaded, which is no work for Python.

    Raises:
        StartupError: It can't be used.
    """
    try:
        embedder = await asyncio.to_thread(create, settings)
        stack.push_async_callback(embedder.close)
        await asyncio.gather(_started(settings, embedder), *([meanwhile()] if meanwhile else []))
    except (ModelInvalid, ModelCorrupt, OSError) as error:
        raise StartupError(f"the embedding model can't be used: {error}") from error
    return embedder


async def _started(settings: EmbedderSettings, embedder: Embedder) -> None:
    # The built-in model waits for nothing.
    place = settings.base_url or settings.path
    said = announced(lambda: f"the embedding model at {place}") if place else nullcontext()
    async with said:
        await embedder.start()

"""Embedding models: the port, its implementations, and the one that the settings name."""

from __future__ import annotations

from contex_server.kernel.config import EmbedderSettings
from contex_server.matching.embedders.port import Embedder


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

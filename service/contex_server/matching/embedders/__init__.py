"""Embedding models: the port, the implementations, and the one that the settings ask for."""

from __future__ import annotations

from contex_server.kernel.config import EmbedderSettings
from contex_server.matching.embedders.port import (
    Embedder,
    EmbeddingFailed,
    ModelCorrupt,
    ModelInvalid,
    Role,
    Vector,
)

__all__ = [
    "Embedder",
    "EmbeddingFailed",
    "ModelCorrupt",
    "ModelInvalid",
    "Role",
    "Vector",
    "create",
]


def create(settings: EmbedderSettings) -> Embedder:
    """The embedder that the settings name, not started yet."""
    # Imported where they are used: each brings libraries that the others don't need.
    if settings.kind == "local":
        from contex_server.matching.embedders.local import LocalModel, Use

        assert settings.path is not None
        return LocalModel(
            settings.path,
            Use(settings.pooling, settings.need_prefix, settings.datum_prefix, settings.max_tokens),
        )
    if settings.kind == "openai":
        from contex_server.matching.embedders.openai import (
            DEFAULT_MAX_TOKENS,
            Endpoint,
            OpenAIEmbedder,
        )

        assert settings.base_url is not None
        assert settings.model is not None
        return OpenAIEmbedder(
            Endpoint(
                settings.base_url,
                settings.model,
                settings.api_key,
                dimension=settings.dimension,
                shorten=settings.shorten,
                need_prefix=settings.need_prefix or "",
                datum_prefix=settings.datum_prefix or "",
                max_tokens=settings.max_tokens or DEFAULT_MAX_TOKENS,
                batch_size=settings.batch_size,
                concurrency=settings.concurrency,
                timeout_s=settings.timeout_s,
                max_retries=settings.max_retries,
            )
        )
    from contex_server.matching.embedders.minilm import MiniLM

    return MiniLM()

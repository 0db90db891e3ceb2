"""The embedding models of this process, and the rules that score with them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import structlog

from contex_server.kernel.config import EmbedderSettings, Settings
from contex_server.kernel.errors import embedder_unavailable
from contex_server.matching import background
from contex_server.matching.embedders import create, load
from contex_server.matching.embedders.minilm import (
    EARLIER_MODEL_ID,
    MODEL_ID,
    UNTUNED_MODEL_ID,
    EarlierMiniLM,
    UntunedMiniLM,
)
from contex_server.matching.embedders.port import Embedder, Role, Vector, unit
from contex_server.matching.relative import background as relative
from contex_server.matching.relative.score import shipped_weights as relative_weights
from contex_server.matching.rules import (
    AbsoluteRule,
    RelativeRule,
    Rule,
    absolute_scoring_model,
    embedder_of,
    is_absolute,
)
from contex_server.matching.score import shipped_weights

log = structlog.get_logger(__name__)

_BUILTIN = (MODEL_ID, UNTUNED_MODEL_ID, EARLIER_MODEL_ID)
_LATIN_ONLY = ("bge-small-en-v1.5", "e5-small-v2")
_Moments = tuple[Vector, Vector]
"""The vectors of the shipped texts and needs under a model."""


class Models:
    """The configured model, and earlier ones that still serve projects embedded with them.

    A scoring model names a model and a rule. Projects are decided by the absolute score with the
    configured model, once they have been encoded for that; until then by whatever decided before.
    """

    def __init__(self, configured: Embedder, others: tuple[Embedder, ...] = ()) -> None:
        self._embedders = {e.model_id: e for e in (*others, configured)}
        self.configured_id = absolute_scoring_model(configured.model_id)
        self._moments: dict[str, asyncio.Task[_Moments]] = {}
        self._rules: dict[str, Rule] = {}

    def ids(self) -> list[str]:
        """The deciders that this process has."""
        return [d for model in self._embedders for d in (model, absolute_scoring_model(model))]

    def usable(self, scoring_model: str) -> str:
        """The scoring model if this process has its model, otherwise the configured one."""
        return (
            scoring_model if embedder_of(scoring_model) in self._embedders else self.configured_id
        )

    def embedder(self, scoring_model: str) -> Embedder:
        """The embedder of a scoring model that this process has."""
        return self._embedders[embedder_of(scoring_model)]

    def scorer_of(self, scoring_model: str) -> str:
        """Identity of the formula and the weights that a scoring model uses."""
        if is_absolute(scoring_model):
            return shipped_weights(embedder_of(scoring_model)).version
        return relative_weights().version

    async def rule(self, scoring_model: str) -> Rule:
        """The rule and model that a scoring model names; raises EMBEDDER_UNAVAILABLE.

        One for all projects: its matrices take megabytes.
        """
        if scoring_model not in self._rules:
            self._rules.setdefault(scoring_model, await self._new_rule(scoring_model))
        return self._rules[scoring_model]

    async def _new_rule(self, scoring_model: str) -> Rule:
        model_id = embedder_of(scoring_model)
        builtin = model_id in _BUILTIN
        if is_absolute(scoring_model):
            prior = background.shipped_prior(tuned=model_id == MODEL_ID or not builtin)
            if not builtin:
                latin_only = model_id.partition("@")[0] in _LATIN_ONLY
                prior = prior.under(*await self._moments_of(scoring_model), latin_only=latin_only)
            return AbsoluteRule(scoring_model, prior)
        former = relative.shipped_prior()
        if not builtin:
            texts, _ = await self._moments_of(scoring_model)
            former = former.under(texts)
        return RelativeRule(scoring_model, former)

    async def close(self) -> None:
        """Cancels what is being computed; the owner of the embedders closes them."""
        for task in self._moments.values():
            task.cancel()
        await asyncio.gather(*self._moments.values(), return_exceptions=True)

    async def _moments_of(self, scoring_model: str) -> _Moments:
        model_id = embedder_of(scoring_model)
        task = self._moments.get(model_id)
        if task is None:
            embedding = _embed_shipped(self._embedders[model_id])
            task = self._moments[model_id] = asyncio.create_task(embedding)
        try:
            return await asyncio.shield(task)
        except Exception as error:
            if self._moments.get(model_id) is task:
                del self._moments[model_id]
            raise embedder_unavailable(error) from error


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
    builtin: list[Embedder] = [UntunedMiniLM(), EarlierMiniLM()]
    if settings.embedder.kind != "builtin":
        builtin.append(create(EmbedderSettings()))
    for other in builtin:
        stack.push_async_callback(other.close)
    others += builtin
    models = Models(embedder, tuple(others))
    stack.push_async_callback(models.close)
    return models


async def _embed_shipped(embedder: Embedder) -> _Moments:
    texts, needs = background.shipped_texts(), background.shipped_needs()
    log.info("embedding_background", model=embedder.model_id, texts=len(texts) + len(needs))
    return (
        unit(await embedder.embed(texts, Role.DATUM)),
        unit(await embedder.embed(needs, Role.NEED)),
    )

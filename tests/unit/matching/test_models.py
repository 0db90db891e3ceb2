from __future__ import annotations

from contextlib import AsyncExitStack

from contex_server.kernel.config import Settings
from contex_server.matching.embedders.minilm import (
    EARLIER_MODEL_ID,
    MODEL_ID,
    UNTUNED_MODEL_ID,
    MiniLM,
)
from contex_server.matching.embedders.port import Role
from contex_server.matching.models import open_models
from contex_server.matching.rules import AbsoluteRule, RelativeRule, absolute_scoring_model


async def test_the_earlier_model_serves_beside_the_builtin_one() -> None:
    async with AsyncExitStack() as stack:
        embedder = MiniLM()
        stack.push_async_callback(embedder.close)
        models = await open_models(Settings(), stack, embedder)
        assert models.configured_id == absolute_scoring_model(MODEL_ID)
        assert set(models.ids()) == {
            scoring_model
            for each in (MODEL_ID, UNTUNED_MODEL_ID, EARLIER_MODEL_ID)
            for scoring_model in (each, each + "#2")
        }
        assert models.usable(EARLIER_MODEL_ID) == EARLIER_MODEL_ID
        assert isinstance(await models.rule(EARLIER_MODEL_ID), RelativeRule)
        assert isinstance(await models.rule(models.configured_id), AbsoluteRule)
        assert models.usable("unknown#2") == models.configured_id
        former = absolute_scoring_model(UNTUNED_MODEL_ID)
        before, now = await models.rule(former), await models.rule(models.configured_id)
        assert isinstance(before, AbsoluteRule)
        assert isinstance(now, AbsoluteRule)
        assert models.scorer_of(former) == "absolute-e114a7"  # as it was fitted for that model
        assert (before.prior.mean != now.prior.mean).any()
        earlier = models.embedder(EARLIER_MODEL_ID)
        assert (await earlier.embed(["text"], Role.DATUM)).shape == (1, 384)

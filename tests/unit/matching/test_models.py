from __future__ import annotations

from contextlib import AsyncExitStack

from contex_server.kernel.config import Settings
from contex_server.matching.embedders.minilm import EARLIER_MODEL_ID, MODEL_ID, MiniLM
from contex_server.matching.embedders.port import Role
from contex_server.matching.models import open_models


async def test_the_earlier_model_serves_beside_the_builtin_one() -> None:
    async with AsyncExitStack() as stack:
        embedder = MiniLM()
        stack.push_async_callback(embedder.close)
        models = await open_models(Settings(), stack, embedder)
        assert models.configured_id == MODEL_ID
        assert set(models.ids()) == {MODEL_ID, EARLIER_MODEL_ID}
        assert models.usable(EARLIER_MODEL_ID) == EARLIER_MODEL_ID
        assert (await models.get(EARLIER_MODEL_ID)).id == EARLIER_MODEL_ID
        earlier = models.embedder(EARLIER_MODEL_ID)
        assert (await earlier.embed(["text"], Role.DATUM)).shape == (1, 384)

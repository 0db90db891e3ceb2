"""The room of matches, put together."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from contex_server.events.hub import Hub
from contex_server.kernel.config import Settings
from contex_server.kernel.errors import StartupError
from contex_server.match.backtest import BacktestRunner
from contex_server.match.engine import MatchEngine
from contex_server.match.feedback import Feedback
from contex_server.match.past import PastIndexes
from contex_server.match.pool import MatcherPool
from contex_server.match.project_matcher import ProjectMatcher
from contex_server.match.queries import MatchQueries
from contex_server.match.reembedding import Reembedding
from contex_server.matching.embeddings import Embeddings
from contex_server.matching.tokens import token_counter
from contex_server.state.reader import StateReader
from contex_server.tiers.storage import Storage


@dataclass(frozen=True, slots=True)
class MatchRoom:
    """Matches needs with data, live and on request."""

    pool: MatcherPool
    queries: MatchQueries
    backtests: BacktestRunner
    feedback: Feedback
    reembedding: Reembedding
    past: PastIndexes


def open_match(
    settings: Settings,
    storage: Storage,
    embeddings: Embeddings,
    hub: Hub,
    states: StateReader,
    stack: AsyncExitStack,
) -> MatchRoom:
    """Builds the room; the stack closes it.

    Raises:
        StartupError: The tokenizer can't be read.
    """
    log, store = storage.log, storage.store
    reembedding = Reembedding(log, store, embeddings)
    stack.push_async_callback(reembedding.close)
    answer_bytes = settings.limits.answer_bytes
    engine = MatchEngine(log, store.state, store.match, embeddings)
    start = partial(
        ProjectMatcher,
        engine=engine,
        hub=hub,
        on_model_in_use=reembedding.start_if_outdated,
    )
    pool = MatcherPool(engine, start, idle_s=settings.index_idle_s, max_bytes=settings.index_bytes)
    stack.push_async_callback(pool.close)
    try:
        counter = token_counter(settings.tokenizer)
    except ValueError as error:
        raise StartupError(str(error)) from error
    past = PastIndexes(engine, settings.index_bytes // 2)
    queries = MatchQueries(states, pool, past, counter, answer_bytes=answer_bytes)
    backtests = BacktestRunner(states, engine, past)
    return MatchRoom(pool, queries, backtests, Feedback(log, queries), reembedding, past)

"""Questions to a project's data, now or at a moment of the past, and the answers' context."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason, event_not_found
from contex_server.kernel.model import (
    Entry,
    Event,
    EventFilter,
    Match,
    Need,
)
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.kernel.scope import Scope
from contex_server.log.port import EventLog
from contex_server.match.index import Index
from contex_server.match.matchers import Matchmaker
from contex_server.matching.answers import Found, answer
from contex_server.matching.context import Fitted, Form, Item, fit
from contex_server.matching.encoding import Encoding
from contex_server.matching.explaining import Explanation, explain
from contex_server.matching.tokens import ESTIMATED_BYTES, TokenCounter
from contex_server.state.moments import Asked, resolve
from contex_server.state.state import State
from contex_server.state.states import States

_FETCH = 64
_INDEX_CHUNK = 200


@dataclass(frozen=True, slots=True)
class Budget:
    """What an answer may take when it is written out.

    Attributes:
        tokens: At most so many; None: no bound.
        form: How it is written out.
    """

    tokens: int | None = None
    form: Form = Form.UNSPECIFIED

    @property
    def asks(self) -> bool:
        """Whether a context was asked for at all."""
        return self.tokens is not None or self.form is not Form.UNSPECIFIED


@dataclass(frozen=True, slots=True)
class MatchedDatum:
    """A datum with its event, whole unless the answer would have grown too large."""

    entry: Entry
    matches: tuple[Match, ...]
    payload_omitted: bool


@dataclass(frozen=True, slots=True)
class Omitted:
    """A datum that did not fit into the budget."""

    data_key: str
    sequence: LogSequence
    score: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Written:
    """An answer written out."""

    text: str
    form: Form
    tokens: int
    counter: str
    omitted: tuple[Omitted, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """The data that match as of a sequence, best first."""

    data: tuple[MatchedDatum, ...]
    sequence: LogSequence
    context: Written | None = None


@dataclass(frozen=True, slots=True)
class Explained:
    """A score, taken apart, with the event it is of."""

    entry: Entry
    event: Event
    explanation: Explanation


class Questions:
    """Answers which data some needs match."""

    def __init__(
        self,
        log: EventLog,
        states: States,
        matchmaker: Matchmaker,
        counter: TokenCounter,
        *,
        answer_bytes: int,
    ) -> None:
        self._log = log
        self._states = states
        self._matchmaker = matchmaker
        self._counter = counter
        self._answer_bytes = answer_bytes

    async def now(
        self,
        project: str,
        needs: Sequence[Need],
        *,
        at_least: LogSequence,
        budget: Budget,
        scope: Scope,
    ) -> Answer:
        """What registered needs match now.

        Raises:
            ContexError: EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        async with self._matchmaker.project(project) as matcher:
            async with matcher.at(at_least) as (index, position):
                encodings = await self._matchmaker.embeddings.of_needs(
                    project, index.model.id, {need.digest: need.text for need in needs}
                )
                found = await self._search(
                    index, needs, encodings, position, EventFilter(scope=scope)
                )
                latest = {data_key: index.latest[data_key] for data_key, _ in found}
            return await self._answer(project, found, latest, position, budget)

    async def ask(
        self,
        project: str,
        questions: Sequence[Need],
        *,
        data_keys: frozenset[str],
        as_of: Asked,
        budget: Budget,
        scope: Scope,
    ) -> Answer:
        """See `MatchService.Match`.

        Raises:
            ContexError: SEQUENCE_TRIMMED, SEQUENCE_IN_FUTURE, TIME_IN_FUTURE,
                EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        async with self.index(project, as_of) as (index, position):
            encodings = await self._matchmaker.embeddings.of_questions(
                project, index.model.id, {q.digest: q.text for q in questions}
            )
            wanted = EventFilter(data_keys=data_keys, scope=scope)
            found = await self._search(index, questions, encodings, position, wanted)
            latest = {data_key: index.latest[data_key] for data_key, _ in found}
        return await self._answer(project, found, latest, position, budget)

    async def explain(
        self,
        project: str,
        need: Need,
        *,
        data_key: str,
        sequence: LogSequence | None,
        as_of: Asked,
        scope: Scope,
    ) -> Explained:
        """See `MatchService.Explain`.

        Args:
            project: The project.
            need: The need.
            data_key: The datum, unless a sequence names an event.
            sequence: The event.
            as_of: The moment to ask about; None: now.
            scope: What the caller may see; the rest counts as not there.

        Raises:
            ContexError: DATA_KEY_NOT_FOUND, EVENT_NOT_FOUND, SEQUENCE_TRIMMED,
                SEQUENCE_IN_FUTURE, TIME_IN_FUTURE, EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        services = self._matchmaker
        async with self.index(project, as_of) as (index, position):
            place = sequence or index.latest.get(data_key)
            if place is None or not (sequence or scope.admits(data_key)):
                raise ContexError(
                    Reason.DATA_KEY_NOT_FOUND,
                    f"no datum {data_key!r} in project {project!r} as of {position}",
                    metadata={"data_key": data_key},
                    field="data_key",
                )
            (entry,) = await self._log.get(project, [place])
            if entry is None:
                raise ContexError(
                    Reason.EVENT_NOT_FOUND,
                    f"project {project!r} has no event {place}",
                    metadata={"sequence": str(place)},
                    field="sequence",
                )
            event = event_codec.decode(entry)
            if not scope.admits(event.data_key):
                raise event_not_found(project, place)
            if not event.text_digest:
                raise ContexError(
                    Reason.EVENT_NOT_FOUND,
                    f"event {place} is a {event.event_type!r} of the service, which is not matched",
                    metadata={"sequence": str(place)},
                    field="sequence",
                )
            model = index.model.id
            encodings = await services.embeddings.of_questions(
                project, model, {need.digest: need.text}
            )
            texts = await services.embeddings.of_events(project, model, [event])
            description = await services.description(project, event)
            explanation = await services.work(
                partial(
                    explain,
                    index.data,
                    services.scorer,
                    model,
                    need,
                    encodings[need.digest],
                    event,
                    texts[event.text_digest],
                    description,
                    position,
                )
            )
            if index.latest.get(event.data_key) != event.sequence:
                # The rank is that of the datum as it is, which this event is no longer.
                explanation = replace(explanation, rank=0)
        return Explained(entry, event, explanation)

    @asynccontextmanager
    async def index(self, project: str, as_of: Asked) -> AsyncIterator[tuple[Index, LogSequence]]:
        """A project's index, now or at a moment of the past, and the sequence it is as of.

        Raises:
            ContexError: SEQUENCE_TRIMMED, SEQUENCE_IN_FUTURE, TIME_IN_FUTURE,
                EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        tail = (await self._log.bounds(project)).tail
        moment = tail if as_of is None else (await resolve(self._log, project, as_of)).sequence
        if moment >= tail:
            async with (
                self._matchmaker.project(project) as matcher,
                matcher.at(moment) as (index, position),
            ):
                if as_of is None or position == moment:
                    yield index, position
                    return
        state = await self._states.at(project, moment)
        yield await self.built(project, state), moment

    async def built(self, project: str, state: State) -> Index:
        """An index of a state, by the model that decides in the project now."""
        services = self._matchmaker
        model_id = await services.embeddings.model_of(project)
        index = Index(await services.embeddings.models.get(model_id), services.scorer)
        data = state.all()
        while part := list(islice(data, _INDEX_CHUNK)):
            encodings = await services.encodings_of_states(project, model_id, part)
            await services.work(partial(index.apply_all, part, encodings))
        return index

    async def _search(
        self,
        index: Index,
        needs: Sequence[Need],
        encodings: dict[bytes, Encoding],
        position: LogSequence,
        wanted: EventFilter,
    ) -> Found:
        pairs = [(need, encodings[need.digest]) for need in needs]
        return await self._matchmaker.work(
            partial(
                answer,
                index.data,
                self._matchmaker.scorer,
                index.model.id,
                pairs,
                position,
                wanted.admits_key,
            )
        )

    async def _answer(
        self,
        project: str,
        found: Found,
        latest: dict[str, LogSequence],
        position: LogSequence,
        budget: Budget,
    ) -> Answer:
        # Half of the answer is for the context where there is one.
        room = self._answer_bytes // 2 if budget.asks else self._answer_bytes
        data: list[MatchedDatum] = []
        items: list[Item] = []
        sizes: list[int] = []
        left = room
        for start in range(0, len(found), _FETCH):
            part = found[start : start + _FETCH]
            entries = await self._log.get(project, [latest[data_key] for data_key, _ in part])
            for entry, (data_key, matches) in zip(entries, part, strict=True):
                if entry is None:
                    continue
                event = event_codec.decode(entry)
                told = await self._matchmaker.explained(project, event, matches, position)
                omit = len(entry.body) > left
                if omit:
                    entry = event_codec.without_payload(entry)
                left -= len(entry.body)
                data.append(MatchedDatum(entry, told, omit))
                if budget.asks:
                    items.append(
                        Item(
                            data_key,
                            event.description,
                            b"" if omit else event.payload,
                            event.content_type,
                            str(event.sequence),
                            matches[0].score,
                            frozenset(match.need_index for match in matches),
                        )
                    )
                    sizes.append(len(event.payload))
        if not budget.asks:
            return Answer(tuple(data), position)
        fitting = [i for i, datum in enumerate(data) if not datum.payload_omitted]
        fitted: Fitted = await self._matchmaker.work(
            partial(fit, [items[i] for i in fitting], budget.tokens, budget.form, self._counter)
        )
        kept = {fitting[i] for i in fitted.kept}
        tokens = {fitting[i]: count for i, count in fitted.omitted}
        omitted = tuple(
            Omitted(
                item.data_key,
                LogSequence.parse(item.sequence),
                item.score,
                # What is too large for any answer is not rendered to be counted.
                tokens[i] if i in tokens else -(-sizes[i] // ESTIMATED_BYTES),
            )
            for i, item in enumerate(items)
            if i not in kept
        )
        context = Written(fitted.text, budget.form, fitted.tokens, self._counter.name, omitted)
        return Answer(tuple(data[i] for i in sorted(kept)), position, context)

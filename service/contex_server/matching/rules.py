"""How pairs are scored: the absolute score, or the relative one that earlier versions had.

One rule with one model decides in a project. What names both, in the store, in matches and in the
log, is the *scoring model*: the model's id and, for the absolute score, `#` and the version of the
encodings that it is computed from. So a project of an earlier version is moved to the absolute
score as it is to another model: encoded anew in the background, then switched by one event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from contex_server.kernel.model import Agent, Event, Match, Need
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.matching import explain as absolute
from contex_server.matching.background import (
    MAX_TEXTS,
    Prior,
    Snapshot,
    SnapshotDamaged,
    background,
    size_reached,
)
from contex_server.matching.changes import SearchResult, TextChange
from contex_server.matching.data_index import DataIndex
from contex_server.matching.describe import Description
from contex_server.matching.encoding import Encoding, Recipe, gist_recipe, need_recipe
from contex_server.matching.explanation import Explanation
from contex_server.matching.need_index import NeedIndex
from contex_server.matching.relative import background as relative_background
from contex_server.matching.relative import data_index as relative_data
from contex_server.matching.relative import explain as relative
from contex_server.matching.relative import need_index as relative_needs
from contex_server.matching.relative.score import Scorer as RelativeScorer
from contex_server.matching.score import Scorer, shipped_weights

_ABSOLUTE = "#2"


class Text(Protocol):
    """A text that at least one datum has."""

    serial: int
    data_keys: set[str]


class Data(Protocol):
    """The texts of a project's live data."""

    def __len__(self) -> int: ...
    @property
    def passages(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def count(self, admits: Callable[[str], bool] | None) -> int: ...
    def digest_of(self, data_key: str) -> bytes | None: ...
    def text(self, digest: bytes) -> Text | None: ...
    def put(self, data_key: str, digest: bytes, encoding: Encoding) -> TextChange: ...
    def remove(self, data_key: str) -> TextChange: ...
    def search(
        self,
        needs: Sequence[Need],
        encodings: Sequence[Encoding],
        admits: Callable[[str], bool] = ...,
    ) -> SearchResult: ...


class Needs(Protocol):
    """The needs that are matched with them; what `scan` returns of a text is for `match`.

    Attributes:
        version: Changes whenever `scan` may return something else than before.
    """

    version: int

    @property
    def needs(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def set_agent(self, agent: Agent, needs: Sequence[Encoding]) -> None: ...
    def remove_agent(self, agent_id: str) -> None: ...
    def changed(self, change: TextChange) -> None: ...
    def scan(self, encodings: Sequence[Encoding]) -> Sequence[Any]: ...
    def match(
        self, encoding: Encoding, found: Any, data_key: str, serial: int | None
    ) -> dict[str, tuple[Match, ...]]: ...


class Rule(Protocol):
    """A rule with a model."""

    scoring_model: str

    def data(self) -> Data:
        """An index of no data."""
        ...

    def needs(self, data: Data) -> Needs:
        """An index of no needs, to be matched with the data."""
        ...

    def explain(
        self,
        data: Data,
        need: Need,
        need_encoding: Encoding,
        event: Event,
        encoding: Encoding,
        description: Description,
        as_of: LogSequence,
        admits: Callable[[str], bool] | None = None,
    ) -> Explanation:
        """Scores an event for a need as a delivery would, and breaks the score down.

        Only data whose keys are admitted are counted; None: all.
        """
        ...

    def size_due(self, data: Data) -> int:
        """The size at which the background should be taken anew, as the data are; 0: none."""
        ...

    def texts(self, data: Data) -> Iterator[Encoding]:
        """The texts that a new background of the data sums up."""
        ...

    def set_background(
        self, data: Data, needs: Needs, snapshot: bytes | None, since: LogSequence
    ) -> None:
        """Scores against this snapshot from here on; None: against what is shipped alone.

        Raises:
            SnapshotDamaged: The bytes are no snapshot under this model. Nothing has changed.
        """
        ...


class AbsoluteRule:
    """The absolute score (ADR 21)."""

    def __init__(self, scoring_model: str, prior: Prior, scorer: Scorer | None = None) -> None:
        self.scoring_model = scoring_model
        self.prior = prior
        self.scorer = scorer or Scorer(shipped_weights(embedder_of(scoring_model)))
        self._shipped = background(prior)  # One for all projects that have no snapshot.

    def data(self) -> DataIndex:
        return DataIndex(self.scoring_model, self.scorer, self._shipped)

    def needs(self, data: Data) -> NeedIndex:
        assert isinstance(data, DataIndex)
        return NeedIndex(data)

    def explain(
        self, data: Data, *pair: Any, admits: Callable[[str], bool] | None = None
    ) -> Explanation:
        assert isinstance(data, DataIndex)
        *judged, _ = pair  # The background tells since when it holds.
        return absolute.explain(data, *[*judged, admits])

    def size_due(self, data: Data) -> int:
        assert isinstance(data, DataIndex)
        size = size_reached(len(data))
        return size if size > size_reached(data.background.data) else 0

    def texts(self, data: Data) -> Iterator[Encoding]:
        assert isinstance(data, DataIndex)
        return data.encodings(MAX_TEXTS)

    def set_background(
        self, data: Data, needs: Needs, snapshot: bytes | None, since: LogSequence
    ) -> None:
        assert isinstance(data, DataIndex)
        assert isinstance(needs, NeedIndex)
        own = None if snapshot is None else Snapshot.unpack(snapshot)
        if own is not None and len(own.mean) != data.dimension:
            raise SnapshotDamaged(f"of {len(own.mean)} dimensions, not {data.dimension}")
        data.background = background(self.prior, own, since) if own else self._shipped
        needs.background_changed()


class RelativeRule:
    """The relative score of earlier versions (ADR 8), whose background moves with each change."""

    def __init__(self, scoring_model: str, prior: relative_background.Prior) -> None:
        self.scoring_model = scoring_model
        self._model = relative_background.Model(scoring_model, prior)
        self._scorer = RelativeScorer()

    def data(self) -> relative_data.DataIndex:
        return relative_data.DataIndex(self._model, self._scorer)

    def needs(self, data: Data) -> relative_needs.NeedIndex:
        assert isinstance(data, relative_data.DataIndex)
        return relative_needs.NeedIndex(data)

    def explain(
        self, data: Data, *pair: Any, admits: Callable[[str], bool] | None = None
    ) -> Explanation:
        assert isinstance(data, relative_data.DataIndex)
        return relative.explain(data, *[*pair, admits])

    def size_due(self, data: Data) -> int:
        return 0

    def texts(self, data: Data) -> Iterator[Encoding]:
        return iter(())

    def set_background(
        self, data: Data, needs: Needs, snapshot: bytes | None, since: LogSequence
    ) -> None:
        pass


def absolute_scoring_model(model_id: str) -> str:
    """The scoring model of the absolute score with a model."""
    return model_id + _ABSOLUTE


def is_absolute(scoring_model: str) -> bool:
    """Whether a scoring model scores absolutely."""
    return scoring_model.endswith(_ABSOLUTE)


def embedder_of(scoring_model: str) -> str:
    """The id of the model that a scoring model's vectors are of."""
    return scoring_model.removesuffix(_ABSOLUTE)


def need_recipe_of(scoring_model: str) -> Callable[[str], Recipe]:
    """How the scoring model has needs encoded."""
    return gist_recipe if is_absolute(scoring_model) else need_recipe

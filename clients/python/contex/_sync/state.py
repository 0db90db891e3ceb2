# Generated from _async/state.py by `make generate`.
"""Methods of `contex.v1.StateService`: states, differences and histories."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from contex.backoff import Retry
from contex.credentials import Shown
from contex.lazy import state as values
from contex.lazy import state_service_pb2, state_service_pb2_grpc, wire

from .answer_stream import SyncAnswerStream
from .calls import Calls
from .transport import Metadata, StreamCall

if TYPE_CHECKING:
    from contex.events import Moment
    from contex.state import Blame, Datum, Revision, State, StateDiff, StateProgress
    from contex.wire import At

    _DatumStream = SyncAnswerStream[Datum]
else:
    _DatumStream = SyncAnswerStream

_PAGE_SIZE = 1_000
"""Items per call if all pages are fetched."""


class SyncStateStream(_DatumStream):
    """The data of a state as they arrive; it resumes by itself after a lost connection."""

    def __init__(
        self,
        open_call: Callable[[Metadata], StreamCall[state_service_pb2.StreamStateResponse]],
        progress: StateProgress,
        shown: Shown,
        timeout: float,
    ) -> None:
        super().__init__(open_call, progress.take, shown, lambda: Retry(timeout))
        self._progress = progress

    @property
    def as_of(self) -> Moment:
        """The moment of the state.

        Raises:
            RuntimeError: Nothing has arrived yet.
        """
        if self._progress.as_of is None:
            raise RuntimeError("the moment is known once the first message has arrived")
        return self._progress.as_of

    @property
    def data_count(self) -> int:
        """How many data the state has."""
        return self._progress.data_count


class StateService(Calls):
    """See `Client`."""

    @property
    def _states(self) -> state_service_pb2_grpc.StateServiceStub:
        return self._connection.stub(state_service_pb2_grpc.StateServiceStub)

    def get_state(
        self,
        project: str,
        *,
        as_of: At | None = None,
        data_keys: Iterable[str] = (),
        prefix: str = "",
        keys_only: bool = False,
        include_deleted: bool = False,
    ) -> State:
        """Returns a project's data as of a moment, all pages together.

        Args:
            as_of: The moment; by default now.
            data_keys: Only data whose key is one of these or matches one of these globs.
            prefix: Only data whose key starts with this.
            keys_only: No events, only keys, revisions and sequences.
            include_deleted: Also deleted keys, each with the event that deleted it.
        """
        request = wire.message(
            state_service_pb2.GetStateRequest,
            project=project,
            as_of=wire.position(as_of, "as_of"),
            data_keys=wire.several(data_keys, "data_keys"),
            prefix=prefix,
            view=_view(keys_only),
            include_deleted=include_deleted,
            page_size=_PAGE_SIZE,
        )
        pages = self._pages(self._states.GetState, request)
        return values.whole_state([page for page in pages])

    def stream_state(
        self,
        project: str,
        *,
        as_of: At | None = None,
        data_keys: Iterable[str] = (),
        prefix: str = "",
        keys_only: bool = False,
        include_deleted: bool = False,
    ) -> SyncStateStream:
        """Streams the same, for large projects. Arguments as in `get_state`."""
        request = wire.message(
            state_service_pb2.StreamStateRequest,
            project=project,
            as_of=wire.position(as_of, "as_of"),
            data_keys=wire.several(data_keys, "data_keys"),
            prefix=prefix,
            view=_view(keys_only),
            include_deleted=include_deleted,
        )
        stream = SyncStateStream(
            lambda metadata: self._states.StreamState(request, metadata=metadata),
            values.StateProgress(request),
            self._shown(),
            self._timeout,
        )
        return self._opened(stream)

    def diff_states(
        self,
        project: str,
        base: At,
        target: At | None = None,
        *,
        data_keys: Iterable[str] = (),
        prefix: str = "",
        keys_only: bool = False,
        omit_patches: bool = False,
    ) -> StateDiff:
        """Returns what differs between two moments, all pages together.

        Args:
            base: The earlier moment.
            target: The later one; by default now.
            data_keys: As in `get_state`.
            prefix: As in `get_state`.
            keys_only: No events before and after, only keys, revisions and sequences.
            omit_patches: Leave out patches.
        """
        request = wire.message(
            state_service_pb2.DiffStatesRequest,
            project=project,
            base=wire.position(base, "base"),
            target=wire.position(target, "target"),
            data_keys=wire.several(data_keys, "data_keys"),
            prefix=prefix,
            view=_view(keys_only),
            omit_patches=omit_patches,
            page_size=_PAGE_SIZE,
        )
        pages = self._pages(self._states.DiffStates, request)
        return values.whole_diff([page for page in pages])

    def history(
        self,
        project: str,
        data_key: str,
        *,
        as_of: At | None = None,
        omit_patches: bool = False,
        omit_payloads: bool = False,
        page_size: int = 100,
    ) -> Iterator[Revision]:
        """Iterates over the revisions of a data key, newest first.

        Args:
            data_key: The key; also one that is deleted.
            as_of: The moment whose newest revision comes first; by default now.
            omit_patches: Leave out patches.
            omit_payloads: Leave out payloads.
            page_size: Revisions per call, 1 to 1,000.

        Raises:
            DataKeyNotFound: The key never had an event.
        """
        request = wire.message(
            state_service_pb2.GetHistoryRequest,
            project=project,
            data_key=data_key,
            as_of=wire.position(as_of, "as_of"),
            omit_patches=omit_patches,
            omit_payloads=omit_payloads,
            page_size=page_size,
        )
        return self._listed(
            lambda: self._states.GetHistory,
            request,
            lambda page: map(values.revision, page.revisions),
        )

    def get_revision(self, project: str, data_key: str, revision: int) -> Revision:
        """Returns one revision of a data key.

        Raises:
            DataKeyNotFound: The key never had an event.
            RevisionNotFound: It never had this revision.
        """
        request = wire.message(
            state_service_pb2.GetRevisionRequest,
            project=project,
            data_key=data_key,
            revision=revision,
        )
        response = self._once(self._states.GetRevision, request)
        return values.revision(response.revision)

    def blame(self, project: str, data_key: str, *, as_of: At | None = None) -> Blame:
        """Returns for each field of a JSON datum, or line of a text, the event that set it.

        Raises:
            DataKeyNotFound: The key has no datum at the moment.
        """
        request = wire.message(
            state_service_pb2.GetBlameRequest,
            project=project,
            data_key=data_key,
            as_of=wire.position(as_of, "as_of"),
        )
        response = self._once(self._states.GetBlame, request)
        return values.blame(response)


def _view(keys_only: bool) -> state_service_pb2.StateView.ValueType:
    return state_service_pb2.STATE_VIEW_KEYS if keys_only else state_service_pb2.STATE_VIEW_FULL

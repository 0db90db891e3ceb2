"""Values of `contex.v1.StateService`: states, differences and histories."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import chain

from . import events
from ._values.events import Moment
from ._values.state import *
from .lazy import state_service_pb2


def whole_state(pages: Sequence[state_service_pb2.GetStateResponse]) -> State:
    """The data of all pages."""
    states = list(map(state, pages))
    data = chain.from_iterable(page.data for page in states)
    return dataclasses.replace(states[0], data=tuple(data))


def whole_diff(pages: Sequence[state_service_pb2.DiffStatesResponse]) -> StateDiff:
    """The changes of all pages."""
    diffs = list(map(state_diff, pages))
    changes = chain.from_iterable(page.changes for page in diffs)
    return dataclasses.replace(diffs[0], changes=tuple(changes))


class StateProgress:
    """How far a stream of a state has come, and how it resumes after a lost connection."""

    def __init__(self, request: state_service_pb2.StreamStateRequest) -> None:
        self.request = request
        self.as_of: Moment | None = None
        self.data_count = 0

    def take(self, message: state_service_pb2.StreamStateResponse) -> Iterator[Datum]:
        """The data of a message; the request asks for those after them from now on."""
        if self.as_of is None:  # resumed calls report the event's time, not the one asked for
            self.as_of = events.moment(message.as_of)
        self.data_count = message.data_count
        self.request.as_of.sequence = message.as_of.sequence
        if message.data:
            self.request.after_data_key = message.data[-1].data_key
        return iter([*map(datum, message.data)])

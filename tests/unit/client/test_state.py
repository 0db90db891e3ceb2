from __future__ import annotations

from contex import state
from contex.v1 import state_service_pb2


def test_a_stream_of_a_state_resumes_after_its_last_datum() -> None:
    request = state_service_pb2.StreamStateRequest(project="p")
    progress = state.StateProgress(request)
    message = state_service_pb2.StreamStateResponse(data_count=2)
    message.as_of.sequence = "5-0"
    message.data.add(data_key="a", sequence="1-0", revision=1)
    assert [datum.data_key for datum in progress.take(message)] == ["a"]
    assert (request.after_data_key, request.as_of.sequence) == ("a", "5-0")
    assert (progress.as_of.sequence, progress.data_count) == ("5-0", 2)  # type: ignore[union-attr]

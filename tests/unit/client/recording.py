"""A channel that keeps the requests it is given and answers with empty messages."""

from __future__ import annotations

from typing import Any


class RecordingChannel:
    def __init__(self) -> None:
        self.requests: list[Any] = []

    @property
    def request(self) -> Any:
        """The last request."""
        return self.requests[-1]

    def unary_unary(self, method: str, request_serializer, response_deserializer, **_: object):
        def call(request, timeout=None, metadata=None):
            self.requests.append(request)
            return response_deserializer(b"")

        return call

    def unary_stream(self, method: str, request_serializer, response_deserializer, **_: object):
        def call(request, metadata=None):
            self.requests.append(request)
            return EmptyStream()

        return call

    def stream_stream(self, method: str, *_: object, **__: object):
        return None


class EmptyStream:
    def __next__(self) -> Any:
        raise StopIteration

    def cancel(self) -> bool:
        return False

"""Values of the domain as messages of the API, where the names of their fields are the same."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from contex_server.api.shared.wire import event_message
from contex_server.kernel.model import Entry, Sequence

M = TypeVar("M", bound=Message)


def convert(kind: type[M], value: object, /, **others: Any) -> M:
    """A message with every field from `others` or, by its name, from `value`.

    Sequences become text, entries events, and other values the messages of their fields. Not
    for what is made for every event: naming the fields is faster.
    """
    for name, field in kind.DESCRIPTOR.fields_by_name.items():
        if name not in others:
            others[name] = _converted(getattr(value, name), field.message_type)
    return kind(**others)


def _converted(value: Any, message: Any) -> Any:
    if isinstance(value, Sequence):
        return str(value)
    if isinstance(value, Entry):
        return event_message(value)
    if message is None or value is None:
        return value
    if type(value) in (list, tuple):  # and not a named one, which is a value
        return [_converted(item, message) for item in value]
    return convert(GetMessageClass(message), value)

"""Values of the domain as messages of the API, where the names of their fields are the same."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.message import Message

from contex_server.kernel.model import Sequence

M = TypeVar("M", bound=Message)


def convert(kind: type[M], value: object, **others: Any) -> M:
    """A message with every field from `others` or, by its name, from `value`.

    Sequences become text. Not for what is made for every event: naming the fields is faster.
    """
    for name in kind.DESCRIPTOR.fields_by_name:
        if name not in others:
            field = getattr(value, name)
            others[name] = str(field) if isinstance(field, Sequence) else field
    return kind(**others)

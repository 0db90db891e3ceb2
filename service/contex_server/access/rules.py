"""What each RPC takes: the option `access` of its declaration in `protos/`."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from contex.v1 import access_pb2
from google.protobuf.descriptor import MethodDescriptor


class Reach(IntEnum):
    """What a call is about; see `contex.v1.Reach`."""

    ANYTHING = 0
    DATA_KEYS = 1
    PROJECT = 2
    AGENT = 3
    DEPLOYMENT = 4


class CallClass(IntEnum):
    """Which limit a call counts against; see `contex.v1.CallClass`."""

    NONE = 0
    WRITE = 1
    READ = 2
    ADMIN = 3


class Rule(NamedTuple):
    """What an RPC takes.

    Attributes:
        permissions: One of them is enough; empty: none is needed.
    """

    permissions: frozenset[int]
    reach: Reach
    call_class: CallClass
    metered: bool

    @property
    def is_of_project(self) -> bool:
        """Whether a call is about a project."""
        return self.reach not in (Reach.ANYTHING, Reach.DEPLOYMENT)


def rule_of(method: MethodDescriptor) -> Rule:
    """What an RPC takes.

    Raises:
        ValueError: Its declaration does not say.
    """
    options = method.GetOptions()
    if not options.HasExtension(access_pb2.access):
        raise ValueError(f"{method.full_name} has no option (contex.v1.access)")
    access = options.Extensions[access_pb2.access]
    return Rule(
        frozenset(access.permissions),
        Reach(access.reach),
        CallClass(access.call_class),
        access.metered,
    )

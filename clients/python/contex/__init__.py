"""The Python client of Contex, the event-sourced context bus for AI agents.

`AsyncClient` is the client; `Client` is the same for code without asyncio. The generated
protobuf modules are in `contex.v1`.
"""

from .channel import channel_options
from .client import AsyncClient
from .errors import (
    Aborted,
    ContexError,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    ResourceExhausted,
    RevisionConflict,
    SequenceTrimmed,
    Unavailable,
    from_refusal,
    from_rpc_error,
)
from .publish_stream import PublishStream
from .subscription import Subscription
from .sync import Client
from .sync_publish_stream import SyncPublishStream
from .sync_subscription import SyncSubscription
from .values import (
    Agent,
    BatchResult,
    Durability,
    Event,
    Match,
    MatchedEvent,
    NewEvent,
    Receipt,
    Registration,
)

__all__ = [
    "Aborted",
    "Agent",
    "AsyncClient",
    "BatchResult",
    "Client",
    "ContexError",
    "DeadlineExceeded",
    "Durability",
    "Event",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "Match",
    "MatchedEvent",
    "NewEvent",
    "NotFound",
    "OutOfRange",
    "PublishStream",
    "Receipt",
    "Registration",
    "ResourceExhausted",
    "RevisionConflict",
    "SequenceTrimmed",
    "Subscription",
    "SyncPublishStream",
    "SyncSubscription",
    "Unavailable",
    "channel_options",
    "from_refusal",
    "from_rpc_error",
]

"""The Python client of Contex, the event-sourced context bus for AI agents.

`AsyncClient` is the client; `Client` is the same for code without asyncio. The generated
protobuf modules are in `contex.v1`.
"""

from .answer_stream import AnswerStream
from .answers import (
    BacktestProgress,
    BacktestSummary,
    Contribution,
    Explanation,
    Feedback,
    MatchAnswer,
    MatchingStatus,
    NeedSummary,
    PassageScore,
    TermHit,
)
from .channel import channel_options
from .client import AsyncClient
from .errors import (
    Aborted,
    ContexError,
    DataKeyNotFound,
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
from .sync_answer_stream import SyncAnswerStream
from .sync_publish_stream import SyncPublishStream
from .sync_subscription import SyncSubscription
from .values import (
    Agent,
    BatchResult,
    Context,
    ContextFormat,
    Durability,
    Event,
    Match,
    MatchedEvent,
    MinDelta,
    Need,
    NeedsChanged,
    NewEvent,
    OmittedDatum,
    Receipt,
    Registration,
)

__all__ = [
    "Aborted",
    "Agent",
    "AnswerStream",
    "AsyncClient",
    "BacktestProgress",
    "BacktestSummary",
    "BatchResult",
    "Client",
    "ContexError",
    "Context",
    "ContextFormat",
    "Contribution",
    "DataKeyNotFound",
    "DeadlineExceeded",
    "Durability",
    "Event",
    "Explanation",
    "FailedPrecondition",
    "Feedback",
    "Internal",
    "InvalidArgument",
    "Match",
    "MatchAnswer",
    "MatchedEvent",
    "MatchingStatus",
    "MinDelta",
    "Need",
    "NeedSummary",
    "NeedsChanged",
    "NewEvent",
    "NotFound",
    "OmittedDatum",
    "OutOfRange",
    "PassageScore",
    "PublishStream",
    "Receipt",
    "Registration",
    "ResourceExhausted",
    "RevisionConflict",
    "SequenceTrimmed",
    "Subscription",
    "SyncAnswerStream",
    "SyncPublishStream",
    "SyncSubscription",
    "TermHit",
    "Unavailable",
    "channel_options",
    "from_refusal",
    "from_rpc_error",
]

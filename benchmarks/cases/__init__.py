"""The benchmarks, in the order in which they run."""

from benchmarks.bench import Case
from benchmarks.cases import (
    archive,
    beside,
    consuming,
    deciders,
    deciding,
    embedding,
    fanout,
    inboxes,
    latency,
    listening,
    matching,
    publish_client,
    publish_stream,
    publish_unary,
    replay,
    store_memory,
    subscribers,
    time_travel,
)

CASES: dict[str, Case] = {
    "publish_unary": publish_unary.run,
    "publish_stream": publish_stream.run,
    "publish_client": publish_client.run,
    "replay": replay.run,
    "fanout": fanout.run,
    "latency": latency.run,
    "subscribers": subscribers.run,
    "store_memory": store_memory.run,
    "embedding": embedding.run,
    "matching": matching.run,
    "deciding": deciding.run,
    "listening": listening.run,
    "inboxes": inboxes.run,
    "deciders": deciders.run,
    "consuming": consuming.run,
    "time": time_travel.run,
    "archive": archive.run,
    "beside": beside.run,
}

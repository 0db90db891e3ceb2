"""Every setting and every limit, typed and validated before anything is opened."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

KIB, MIB = 1024, 1024 * 1024


class Limits(BaseModel):
    """The bounds of the API, as `protos/` documents them."""

    payload_bytes: int = Field(default=MIB, ge=1, le=8 * MIB)
    events_per_batch: int = 1_000
    batch_bytes: int = 8 * MIB
    message_bytes: int = 16 * MIB
    description_bytes: int = 4_096
    content_type_chars: int = 128
    metadata_entries: int = 32
    metadata_key_chars: int = 64
    metadata_bytes: int = 4_096
    needs_per_agent: int = 32
    need_chars: int = 1_000
    max_matches: int = 100
    filter_entries: int = 32
    page_size: int = 1_000
    page_bytes: int = 2 * MIB
    page_scanned_events: int = 20_000
    answer_bytes: int = 3 * MIB
    batches_in_flight: int = 16
    heartbeat_ms: tuple[int, int] = (100, 60_000)


class Settings(BaseSettings):
    """Configuration of a server: flags of `contex serve`, or CONTEX_* in the environment."""

    model_config = SettingsConfigDict(
        env_prefix="CONTEX_", env_nested_delimiter="__", extra="ignore"
    )

    host: str = "127.0.0.1"
    port: int = Field(default=50051, ge=0, le=65_535)
    insecure: bool = False
    workers: int = Field(default=1, ge=1, le=64)
    shutdown_grace_s: float = Field(default=4.0, gt=0, le=6.0)

    redis_url: str | None = None
    """redis://, rediss:// or unix:// for one server; redis+sentinel://host:port,…/service;
    redis+cluster://host:port. None: the bundled Valkey, in `data_dir`."""
    data_dir: Path = Path("data")
    request_window_s: int = Field(default=600, ge=600, le=86_400)
    """A request_id is remembered for at least this long."""
    replication_timeout_ms: int = Field(default=2_000, ge=1)
    replay_page_events: int = Field(default=1_000, ge=1, le=10_000)
    feed_bytes: int = Field(default=4 * MIB, ge=64 * KIB)
    """What a live feed keeps for its readers; who is further behind reads from the log."""
    message_bytes: int = Field(default=MIB, ge=16 * KIB, le=3 * MIB)
    """Upper bound of a stream message that holds more than one event."""
    pending_appends: int = Field(default=10_000, ge=1)

    heartbeat_interval_ms: int = Field(default=15_000, ge=100, le=60_000)
    match_threshold: float = Field(default=0.35, gt=0, le=1)
    embed_timeout_ms: int = Field(default=5_000, ge=1)
    """A publish waits this long for an embedding before it is appended without."""
    index_idle_s: float = Field(default=600.0, gt=0)

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"

    limits: Limits = Limits()

    @model_validator(mode="after")
    def _loopback_unless_insecure(self) -> Self:
        if not self.insecure and not _is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} is reachable from other machines and there is no "
                "authentication yet; listen on 127.0.0.1, or pass --insecure"
            )
        return self


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False

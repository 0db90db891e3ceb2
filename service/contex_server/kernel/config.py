"""Every setting and every limit, typed and validated before anything is opened."""

from __future__ import annotations

import os
import re
from base64 import b64decode
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote, unquote, urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

_CREDENTIAL_NAME = re.compile(
    r"(?i)(AWS|AZURE|GOOGLE|GCP|GCS)_\w*(SECRET|TOKEN|PASSWORD|ACCOUNT_KEY|ACCESS_KEY|SAS)\w*"
    r"(?<!_FILE)(?<!_PATH)(?<!_URI)(?<!_ENDPOINT)"
)
_KEY_BYTES = 32
KIB, MIB = 1024, 1024 * 1024
_DAY_MS = 24 * 3600 * 1000


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
    needs_bytes: int = 256 * KIB
    json_pointers: int = 16
    json_pointer_chars: int = 256
    comment_chars: int = 1_000
    max_matches: int = 100
    filter_entries: int = 32
    page_size: int = 1_000
    page_bytes: int = 2 * MIB
    page_scanned_events: int = 20_000
    answer_bytes: int = 3 * MIB
    batches_in_flight: int = 16
    batches_per_request: int = 256
    heartbeat_ms: tuple[int, int] = (100, 60_000)
    replay_speed: float = 1_000_000
    replay_pause_ms: int = 3_600_000
    ping_interval_ms: int = 5_000
    context_tokens: int = 10_000_000
    min_valid_seconds: int = 1
    max_valid_seconds: int = 10 * 365 * 24 * 3600
    wait_ms: int = 60_000
    consumer_messages: int = 1_000
    consumer_bytes: int = 64 * MIB
    ack_deadline_ms: tuple[int, int] = (1_000, 3_600_000)
    attempts: int = 1_000
    retry_delay_ms: int = 7 * 24 * 3_600_000
    park_reason_chars: int = 1_000
    outstanding: int = 10_000
    parked: int = 10_000

    @property
    def response_message_bytes(self) -> int:
        """The largest message that is sent: one event and what goes with it (a patch, the parts of
        a blame, a context), or an answer. With the default limits it is gRPC's own default."""
        return MIB + max(self.answer_bytes, self.payload_bytes + self.page_bytes)


class EmbedderSettings(BaseModel):
    """The embedding model and how to call it; docs/operations/settings.md explains each field."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["builtin", "local", "openai"] = "builtin"

    path: Path | None = Field(default=None, validate_default=True)
    pooling: Literal["mean", "cls", "last"] | None = None

    base_url: str | None = Field(default=None, validate_default=True)
    model: str | None = Field(default=None, validate_default=True)
    api_key: SecretStr | None = None
    dimension: int | None = Field(default=None, ge=1, le=65_536)
    shorten: bool = False
    batch_size: int = Field(default=64, ge=1, le=2_048)
    concurrency: int = Field(default=4, ge=1, le=64)
    timeout_s: float = Field(default=10.0, gt=0, le=600)
    max_retries: int = Field(default=3, ge=0, le=10)

    need_prefix: str | None = Field(default=None, max_length=1_000)
    datum_prefix: str | None = Field(default=None, max_length=1_000)
    max_tokens: int | None = Field(default=None, ge=8, le=131_072)

    @field_validator("path", "base_url", "model")
    @classmethod
    def _needed_with_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kind = "local" if info.field_name == "path" else "openai"
        if info.data.get("kind") == kind and not value:
            raise ValueError(f"needed with kind {kind}")
        if info.data.get("kind", kind) != kind and value is not None:
            raise ValueError(f"is for kind {kind}, and kind is {info.data['kind']}")
        return value

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parts = urlsplit(value)
                is_url = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            except ValueError:  # It may quote a password.
                is_url = False
            if not is_url:
                raise ValueError("not an http:// or https:// URL")
            if parts.username is not None or parts.query or parts.fragment:
                raise ValueError("credentials, query or fragment; a key belongs into api_key")
        return value

    @field_validator("shorten")
    @classmethod
    def _shorten_to(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("dimension") is None:
            raise ValueError("needs dimension")
        return value


Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
"""Signatures that need a private key: one who can verify a token can't make one."""
_RESERVED_ISSUERS = ("cert", "group", "key")
"""Identities that begin so are not of tokens."""


class Issuer(BaseModel):
    """An issuer of tokens (JWT) that is trusted; docs/operations/tls.md explains each field."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern="^[A-Za-z0-9_-]{1,32}$")
    issuer: str = Field(min_length=1, max_length=1_000)
    audiences: tuple[str, ...] = Field(min_length=1)
    jwks_url: str | None = None
    jwks_file: Path | None = None
    identity_claim: str = Field(default="sub", min_length=1)
    groups_claim: str | None = "groups"
    tenant_claim: str | None = None
    leeway_s: float = Field(default=60, ge=0, le=600)
    algorithms: tuple[Algorithm, ...] = Field(
        default=("RS256", "PS256", "ES256", "ES384", "EdDSA"), min_length=1
    )

    @field_validator("name")
    @classmethod
    def _no_other_identities(cls, value: str) -> str:
        if value.lower() in _RESERVED_ISSUERS:
            raise ValueError("is the beginning of other identities")
        return value

    @field_validator("jwks_url")
    @classmethod
    def _safe_url(cls, value: str | None) -> str | None:
        if value is not None and not is_safe_url(value):
            raise ValueError("not an https:// URL, or http:// of this machine")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.jwks_url is not None and self.jwks_file is not None:
            raise ValueError("jwks_url and jwks_file: give one of them, or neither")
        if self.jwks_url is None and self.jwks_file is None and not is_safe_url(self.issuer):
            raise ValueError(
                "issuer: not an https:// URL, or http:// of this machine, at which its keys could "
                "be found; give jwks_url or jwks_file"
            )
        return self


def is_safe_url(url: str) -> bool:
    """Whether what is fetched there comes from whom it names."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))


class Settings(BaseSettings):
    """Configuration of a server: flags of `contex serve`, or CONTEX_* in the environment.

    docs/operations/settings.md explains each field.
    """

    model_config = SettingsConfigDict(
        env_prefix="CONTEX_", env_nested_delimiter="__", extra="ignore"
    )

    host: str = "127.0.0.1"
    port: int = Field(default=50051, ge=0, le=65_535)
    insecure: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_self_signed: bool = False
    tls_client_ca: Path | None = None
    tls_client_port: int | None = Field(default=None, ge=0, le=65_535)
    tls_identity: Literal["uri", "dns", "email", "cn"] | None = None
    access: bool = True
    admin_key_file: Path | None = None
    issuers: tuple[Issuer, ...] = ()
    workers: int = Field(default=1, ge=1, le=64)
    shutdown_grace_s: float = Field(default=4.0, gt=0, le=6.0)

    redis_url: str | None = Field(default=None, repr=False)
    data_dir: Path = Path("data")
    request_window_s: int = Field(default=600, ge=600, le=86_400)
    replication_timeout_ms: int = Field(default=2_000, ge=1, le=4_000)
    confirming_replicas: int = Field(default=1, ge=1, le=10)
    feed_after: Literal["appended", "replicated"] = "appended"
    replay_page_events: int = Field(default=1_000, ge=1, le=10_000)
    feed_bytes: int = Field(default=4 * MIB, ge=64 * KIB)
    message_bytes: int = Field(default=MIB, ge=16 * KIB, le=3 * MIB)
    pending_appends: int = Field(default=10_000, ge=1)
    request_bytes: int = Field(default=16 * MIB, ge=256 * KIB)
    read_bytes: int = Field(default=64 * MIB, ge=256 * KIB)

    heartbeat_interval_ms: int = Field(default=15_000, ge=100, le=60_000)
    match_threshold: float = Field(default=0.2, gt=0, le=1)
    """Near the best by F1 when the score was fitted, 0.21 (matching/data/weights.json)."""
    embed_timeout_ms: int = Field(default=5_000, ge=1)
    index_idle_s: float = Field(default=600.0, gt=0)
    index_bytes: int = Field(default=512 * MIB, ge=0)
    tokenizer: Path | None = None

    embedder: EmbedderSettings = EmbedderSettings()
    previous_embedder: EmbedderSettings | None = None

    snapshot_events: int = Field(default=1_000, ge=10)
    snapshot_bytes: int = Field(default=4 * MIB, ge=64 * KIB)
    snapshot_cache_bytes: int = Field(default=64 * MIB, ge=0)
    delivery_records: bool = True
    delivery_retention_days: int = Field(default=30, ge=1, le=3_650)
    journal_entries: int = Field(default=100_000, ge=1_000)
    inbox_bytes: int = Field(default=64 * MIB, ge=64 * KIB)
    audit_retention_days: int = Field(default=365, ge=0, le=36_500)

    archive_url: str | None = Field(default=None, repr=False)
    archive_cache_bytes: int = Field(default=64 * MIB, ge=8 * MIB)
    segment_events: int = Field(default=50_000, ge=10, le=1_000_000)
    segment_bytes: int = Field(default=32 * MIB, ge=64 * KIB, le=512 * MIB)
    store_events: int = Field(default=1_000_000, ge=0)
    store_bytes: int = Field(default=512 * MIB, ge=0)
    store_days: float = Field(default=0, ge=0, le=36_500)
    archive_days: float = Field(default=0, ge=0, le=36_500)
    keep_revisions: int = Field(default=0, ge=0, le=1_000_000)

    master_key_file: Path | None = None
    create_master_key: bool = False
    previous_master_key_file: Path | None = None

    metrics_port: int | None = Field(default=None, ge=0, le=65_535)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"

    limits: Limits = Limits()

    @property
    def secrets(self) -> set[str]:
        """Passwords and keys among the settings, in every form in which they may be met."""
        urls = (self.redis_url, self.archive_url)
        found = {part for url in urls if url for part in (*_userinfo(url), *_options(url))}
        for embedder in (self.embedder, self.previous_embedder):
            if embedder is not None and embedder.api_key is not None:
                found.add(embedder.api_key.get_secret_value())
        found |= {unquote(part) for part in found} | _of_environment()
        # As they are met where somebody has written them into a URL, or a `repr`.
        return found | {form for part in found for form in (_quoted(part), repr(part)[1:-1])}

    @property
    def audit_retention_ms(self) -> int:
        """How long audit records are kept; 0: for ever."""
        return self.audit_retention_days * _DAY_MS

    @property
    def delivery_retention_ms(self) -> int:
        """How long the journals of agents are kept."""
        return self.delivery_retention_days * _DAY_MS

    @property
    def tls(self) -> bool:
        """Whether it is served over TLS."""
        return self.tls_self_signed or self.tls_cert is not None

    @field_validator("issuers")
    @classmethod
    def _different_issuers(cls, value: tuple[Issuer, ...]) -> tuple[Issuer, ...]:
        for field in ("name", "issuer"):
            if len({getattr(issuer, field) for issuer in value}) < len(value):
                raise ValueError(f"two have the same {field}")
        return value

    @field_validator("master_key_file", "previous_master_key_file", mode="before")
    @classmethod
    def _no_key_itself(cls, value: Any) -> Any:
        try:
            is_key = len(b64decode(str(value), validate=True)) == _KEY_BYTES
        except ValueError:
            is_key = False
        if is_key:
            raise ValueError("a key itself, where its file is to be named")
        return value

    @model_validator(mode="after")
    def _consistent_tls(self) -> Self:
        cert, key, client_ca = self.tls_cert, self.tls_key, self.tls_client_ca
        if self.tls_self_signed and (cert or key):
            raise ValueError("give --tls-self-signed, or --tls-cert and --tls-key, not both")
        if self.tls_self_signed and self.redis_url is not None:
            raise ValueError(
                "--tls-self-signed keeps its certificate with the built-in store; with a store of "
                "your own, give --tls-cert and --tls-key"
            )
        if (cert is None) != (key is None):
            given, missing = ("cert", "key") if cert else ("key", "cert")
            raise ValueError(f"--tls-{given} needs --tls-{missing}")
        if client_ca is not None and not self.tls:
            raise ValueError(
                "--tls-client-ca needs TLS: give --tls-cert and --tls-key, or --tls-self-signed"
            )
        if self.tls_client_port is not None and client_ca is None:
            raise ValueError("--tls-client-port needs --tls-client-ca")
        if self.tls_client_port and self.tls_client_port == self.port:
            raise ValueError("--tls-client-port is the same as --port")
        if self.tls_identity is not None and client_ca is None:
            raise ValueError("CONTEX_TLS_IDENTITY needs --tls-client-ca")
        return self

    @model_validator(mode="after")
    def _encrypted_beyond_loopback(self) -> Self:
        if not self.insecure and not self.tls and not _is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} is reachable from other machines: serve TLS (--tls-cert and "
                "--tls-key, or --tls-self-signed), or allow plain text with --insecure"
            )
        if not self.insecure and not self.access and not _is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} is reachable from other machines, where anybody may do all "
                "without access: leave --no-access out, or pass --insecure"
            )
        return self


def _userinfo(url: str) -> list[str]:
    """The password of a URL, if it has one; also where it is not escaped as it should be."""
    before, found, _ = url.partition("://")[2].rpartition("@")
    return [before, before.partition(":")[2]] if found else []


def _options(url: str) -> list[str]:
    """The passwords among a URL's options."""
    options = (option.partition("=") for option in url.partition("?")[2].split("&"))
    return [value for name, _, value in options if "password" in name]


def _of_environment() -> set[str]:
    """The credentials of the archive, which its library takes from the environment."""
    return {
        value for name, value in os.environ.items() if value and _CREDENTIAL_NAME.fullmatch(name)
    }


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="replace")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False

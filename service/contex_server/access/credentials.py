"""API keys: how they are made, written and compared."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import NamedTuple

_ID_BYTES, _SECRET_BYTES = 8, 32
_KEY = re.compile(r"ctx_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


class Secret(NamedTuple):
    """An API key as its owner has it."""

    key_id: str
    secret: str

    def __repr__(self) -> str:
        return f"Secret(key_id={self.key_id!r})"

    @property
    def text(self) -> str:
        """The key itself."""
        return f"ctx_{self.key_id}_{self.secret}"

    @property
    def digest(self) -> str:
        """What is stored of it: SHA-256 of the secret, in hexadecimal."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def fits(self, digest: str) -> bool:
        """Whether it is the key of a digest; takes as long whether it is or not."""
        return hmac.compare_digest(self.digest, digest)


def new_key() -> Secret:
    """A key that nobody has."""
    return Secret(secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES))


def parse_key(text: str) -> Secret | None:
    """A key as it is written; None if the text is none."""
    found = _KEY.fullmatch(text)
    return None if found is None else Secret(found[1], found[2])

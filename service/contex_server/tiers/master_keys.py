"""Master keys, and the keys of subjects and projects that they wrap.

AES-256-GCM everywhere (NIST SP 800-38D), with random nonces of 96 bits: a key may seal 2^32 times
so. A subject's key seals one subject's events, far fewer; a project's is replaced long before, see
`sealer.KEY_EVENTS`; a master key wraps one key for each of these.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.secret_files import create_secret

log = structlog.get_logger(__name__)

KEY_BYTES = 32
NONCE_BYTES = 12
_ID_BYTES = 4


class MasterKeys:
    """The key that wraps, and those that did before it.

    Args:
        current: 32 bytes.
        previous: Likewise.
    """

    def __init__(self, current: bytes, previous: Iterable[bytes] = ()) -> None:
        self._current = _id_of(current)
        self._keys = {_id_of(key): AESGCM(key) for key in (*previous, current)}

    @property
    def current_id(self) -> bytes:
        """Identifies the key that wraps."""
        return self._current

    @property
    def has_previous(self) -> bool:
        """Whether there are others than the one that wraps."""
        return len(self._keys) > 1

    def is_current(self, wrapped: bytes) -> bool:
        """Whether a key is wrapped by the one that wraps now."""
        return wrapped[:_ID_BYTES] == self._current

    def wrap(self, key: bytes, name: bytes) -> bytes:
        """A key, to be stored under a name."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._keys[self._current].encrypt(nonce, key, name)
        return self._current + nonce + sealed

    def unwrap(self, wrapped: bytes, name: bytes) -> bytes:
        """The key that was wrapped.

        Raises:
            ContexError: KEY_UNAVAILABLE.
        """
        master, nonce = wrapped[:_ID_BYTES], wrapped[_ID_BYTES : _ID_BYTES + NONCE_BYTES]
        with suppress(KeyError, InvalidTag):
            return self._keys[master].decrypt(nonce, wrapped[_ID_BYTES + NONCE_BYTES :], name)
        raise ContexError(
            Reason.KEY_UNAVAILABLE,
            f"an event is encrypted under the master key {master.hex()}, which is not here",
            metadata={"key_id": master.hex()},
        )


def _id_of(key: bytes) -> bytes:
    return hashlib.sha256(b"contex master key\0" + key).digest()[:_ID_BYTES]


def read_key(path: Path) -> bytes:
    """A key from a file: 32 bytes in base64.

    Raises:
        ValueError: The file holds none.
        OSError: It can't be read.
    """
    try:
        key = base64.b64decode(path.read_bytes().strip(), validate=True)
    except binascii.Error as error:
        raise ValueError(f"{path}: not base64: {error}") from None
    if len(key) != KEY_BYTES:
        raise ValueError(f"{path}: {len(key)} bytes, and a key has {KEY_BYTES}")
    return key


def create_key(path: Path) -> bytes:
    """The key in a file, which is made if it is not there, for its owner only.

    Raises:
        ValueError: The file holds none.
        OSError: It can't be read or made.
    """
    if create_secret(path, base64.b64encode(os.urandom(KEY_BYTES))):
        log.info("master_key_created", path=str(path), advice="keep a copy elsewhere")
    return read_key(path)

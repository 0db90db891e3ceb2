"""What proves who calls: an API key or a token, sent with every call as `authorization`.

A secret is in no repr, no message and no log, and is never sent in plain text to another machine
unless that is allowed. Where a client is given neither key nor token, one is looked for when the
first call is made:

1. the key in CONTEX_API_KEY;
2. the key in the file that CONTEX_API_KEY_FILE names;
3. the key that `contex login` has stored for the target (`credentials_file`);
4. of a target on this machine, `admin.key` in $CONTEX_DATA_DIR or ./data, where a server on the
   bundled store has written it.

Only what is needed for a call is imported: a command that makes one starts no slower for it.
"""

from __future__ import annotations

import os
import stat
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from .channel import is_local

if TYPE_CHECKING:
    from .errors import ContexError

AUTHORIZATION = "authorization"
_ALLOW_PLAINTEXT = "CONTEX_ALLOW_PLAINTEXT_CREDENTIALS"
_MOST_BYTES = 64 << 10
"""Of a file with a key; what is larger is something else."""
_FOUND_FOR_S = 30.0
"""After that a key is looked for again: its file may have been replaced by that of another key."""
_REFUSED = ("INVALID", "EXPIRED", "REVOKED")
"""Causes of a refusal that another key mends."""
_LONGEST_SECRET = 16_384
"""Characters of a key or token: gRPC refuses metadata that are larger by themselves."""

Token = str | Callable[[], str]
"""A token (JWT), or what returns a fresh one: it is called for every call, so let it keep one."""


class CredentialsWarning(UserWarning):
    """A file with a key was found, and is not used."""


class EmptySecretError(ValueError):
    """There is nothing where a key or token should be."""


class Credentials:
    """What a client proves by, on its way to one target.

    A key in a file is read again now and then, and when it was refused: another may be there by
    then.

    Args:
        target: Where it calls.
        api_key: The key; None to look for one, "" for none.
        api_key_file: The file that has the key, instead.
        token: A token, or what returns one, instead.
        allow_plaintext: Whether secrets may leave this machine unencrypted; by default as
            CONTEX_ALLOW_PLAINTEXT_CREDENTIALS says.
        encrypted: Whether the way to the target is: plain text is no question then.
        looks: Whether a key is looked for.

    Raises:
        OSError: The file can't be read.
        ValueError: Several are given; or one that may not be sent, or is not a key or a token at
            all.
    """

    def __init__(
        self,
        target: str,
        api_key: str | None = None,
        token: Token | None = None,
        *,
        api_key_file: str | os.PathLike[str] | None = None,
        allow_plaintext: bool | None = None,
        encrypted: bool = False,
        looks: bool = True,
    ) -> None:
        if api_key and token is not None:
            raise ValueError("give api_key or token, not both")
        if api_key_file is not None and (api_key is not None or token is not None):
            raise ValueError("give one of api_key, api_key_file and token")
        self._target = target
        self._file = None if api_key_file is None else os.fspath(api_key_file)
        self._is_safe = encrypted or is_local(target) or _is_allowed(allow_plaintext)
        self._fresh = token if callable(token) else None
        secret = api_key if token is None or callable(token) else token
        self._metadata: tuple[tuple[str, str], ...] | None = None
        self._found: tuple[tuple[str, str], ...] = ()
        self._found_until = 0.0
        if secret:
            self._metadata = self._carried(secret, "api_key" if api_key else "token")
        elif self._fresh is not None:
            self._check_safe("token")
        elif self._file is not None:
            self.metadata()
        elif secret == "" or not looks:
            self._metadata = ()

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of the next call.

        Raises:
            OSError: The file with the key can't be read.
            ValueError: The key that was found may not be sent, or is none.
        """
        if self._fresh is not None:
            return self._carried(self._fresh(), "token")
        if self._metadata is not None:
            return self._metadata
        now = time.monotonic()
        if now >= self._found_until:
            try:
                found = self._look()
            except (OSError, EmptySecretError):
                if not self._found:
                    raise
                # Somebody is about to replace it; the key itself may be valid yet.
            else:
                self._found = self._carried(*found) if found else ()
            self._found_until = now + _FOUND_FOR_S
        return self._found

    def is_renewed(self, shown: tuple[tuple[str, str], ...], error: ContexError) -> bool:
        """Whether a call that was refused may be made again: another key is there by now.

        Args:
            shown: The metadata that were refused.
            error: The refusal.
        """
        if self._metadata is not None or self._fresh is not None:
            return False
        if error.reason != "UNAUTHENTICATED" or error.metadata.get("cause") not in _REFUSED:
            return False
        self._found_until = 0.0
        try:
            return self.metadata() != shown
        except (OSError, ValueError) as problem:
            error.add_note(f"and there is no other key: {problem}")
            return False

    def _look(self) -> tuple[str, str] | None:
        if self._file is not None:
            return read_key(self._file), self._file
        return find(self._target)

    def _carried(self, secret: str, source: str) -> tuple[tuple[str, str], ...]:
        self._check_safe(source)
        return ((AUTHORIZATION, f"Bearer {checked(secret, source)}"),)

    def _check_safe(self, source: str) -> None:
        if not self._is_safe:
            raise ValueError(
                f"{source}: not sent to {self._target}: the connection is not encrypted, so that "
                "others could read it. In a network that is trusted, allow it with "
                f"allow_plaintext_credentials=True or {_ALLOW_PLAINTEXT}=1; api_key='' sends none"
            )


class Shown:
    """What one call or stream says of who calls, each time that it is made.

    Args:
        credentials: What proves it.
        identity: Metadata that go with them.
    """

    def __init__(self, credentials: Credentials, identity: tuple[tuple[str, str], ...]) -> None:
        self._credentials = credentials
        self._identity = identity
        self._last: tuple[tuple[str, str], ...] = ()

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of the next call."""
        self._last = self._credentials.metadata()
        return (*self._identity, *self._last)

    def is_renewed(self, error: ContexError) -> bool:
        """Whether the last call was refused for what another key, which is there by now, mends."""
        return self._credentials.is_renewed(self._last, error)


def checked(secret: object, source: str) -> str:
    """A key or token that metadata can carry, without the space around it.

    gRPC would quote one that they can't, in its error.

    Raises:
        TypeError: It is no text.
        ValueError: It is empty, or has other characters than keys and tokens have.
    """
    if not isinstance(secret, str):
        raise TypeError(f"{source}: expected a string, not {type(secret).__name__}")
    secret = secret.strip()
    if not secret:
        raise EmptySecretError(f"{source}: is empty")
    if not len(secret) <= _LONGEST_SECRET or not all("!" <= one <= "~" for one in secret):
        raise ValueError(f"{source}: is not an API key or token, one word of printable ASCII")
    return secret


def find(target: str) -> tuple[str, str] | None:
    """The key for a target where none is given, and where it comes from.

    Raises:
        OSError: The file that CONTEX_API_KEY_FILE names can't be read.
        ValueError: A file with keys is not safe, or is damaged.
    """
    if key := os.environ.get("CONTEX_API_KEY"):
        return key, "CONTEX_API_KEY"
    if path := os.environ.get("CONTEX_API_KEY_FILE"):
        return read_key(path), f"CONTEX_API_KEY_FILE ({path})"
    path = credentials_file()
    if key := stored_keys(path).get(target):
        return key, path
    return _admin_key() if is_local(target) else None


def read_key(path: str) -> str:
    """The key in a file that the user names: its only line.

    Raises:
        OSError: It can't be read.
        ValueError: It has no key.
    """
    with open(path, "rb") as file:
        text = file.read(_MOST_BYTES).decode(errors="replace")
    return checked(text, path)


def credentials_file() -> str:
    """Where `contex login` keeps keys: CONTEX_CREDENTIALS_FILE, or contex/credentials.json in
    XDG_CONFIG_HOME, by default ~/.config."""
    if path := os.environ.get("CONTEX_CREDENTIALS_FILE"):
        return path
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(home, "contex", "credentials.json")


def stored_keys(path: str) -> dict[str, str]:
    """The keys by target that a file of `contex login` has; none if there is no file.

    Raises:
        ValueError: Others can read it, it belongs to somebody else, or it is damaged.
    """
    try:
        text = _read_private(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ValueError(f"{path}: can't be read: {error.strerror}") from None
    import json

    try:
        targets = json.loads(text)["targets"]
        return {target: entry["api_key"] for target, entry in targets.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        # Its text is not quoted: it may be a key.
        raise ValueError(f"{path}: is damaged: delete it, and log in again") from None


def store_key(target: str, key: str | None) -> str:
    """Keeps a key for a target, or with None forgets it; returns the file.

    Raises:
        OSError: It can't be written.
        ValueError: The file is not safe, or is damaged.
    """
    import json
    import tempfile

    path = credentials_file()
    keys = stored_keys(path)
    if key is None:
        if keys.pop(target, None) is None:
            return path
    else:
        keys[target] = key
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, mode=0o700, exist_ok=True)
    targets = {target: {"api_key": key} for target, key in sorted(keys.items())}
    # A new file that takes the place of the old one: it is never half written, nor readable.
    handle, part = tempfile.mkstemp(dir=folder, prefix=".credentials")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump({"targets": targets}, file, indent=2)
            file.write("\n")
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
    return path


def _admin_key() -> tuple[str, str] | None:
    path = os.path.join(os.environ.get("CONTEX_DATA_DIR") or "data", "admin.key")
    try:
        return checked(_read_private(path), path), path
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        problem = f"{path}: can't be read: {error.strerror}"
    except ValueError as error:
        problem = str(error)
    warnings.warn(f"not used: {problem}", CredentialsWarning, stacklevel=2)
    return None


def _read_private(path: str) -> str:
    """The text of a file that nobody else can read or has written.

    Raises:
        OSError: It can't be read.
        ValueError: It is not private.
    """
    # What is open is looked at, so that nobody can put another file in its place meanwhile.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path}: is no file")
        if hasattr(os, "getuid"):
            if status.st_uid != os.getuid():
                raise ValueError(f"{path}: belongs to another user")
            if status.st_mode & 0o077:
                raise ValueError(f"{path}: others can read it; run: chmod 600 {path}")
        return file.read(_MOST_BYTES).decode(errors="replace")


def _is_allowed(allow: bool | None) -> bool:
    if allow is None:
        return os.environ.get(_ALLOW_PLAINTEXT, "").lower() in ("1", "true", "yes", "on")
    return allow

"""An issuer of tokens on this machine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from contex_server.kernel.config import Issuer
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ALGORITHMS = {"RS256": "RSA", "PS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}


def new_key(algorithm: str) -> Any:
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65_537, 2_048)


def jwk(key: Any, algorithm: str, kid: str | None, **more: Any) -> dict[str, Any]:
    """The public half of a key."""
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return made | ({} if kid is None else {"kid": kid}) | more


@dataclass
class FakeIssuer:
    """Signs tokens, and serves the keys.

    Attributes:
        url: Its address, which is also its name.
        keys: By id, the private keys with their algorithms.
        requests: The paths that were asked for.
        answer: What to answer instead, by path: a status, and the body.
    """

    url: str
    keys: dict[str, tuple[Any, str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    answer: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def jwks(self) -> bytes:
        found = [jwk(key, algorithm, kid) for kid, (key, algorithm) in self.keys.items()]
        return json.dumps({"keys": found}).encode()

    def add(self, kid: str, algorithm: str = "ES256") -> None:
        self.keys[kid] = new_key(algorithm), algorithm

    def settings(self, **more: Any) -> Issuer:
        return Issuer(**{"name": "acme", "issuer": self.url, "audiences": ["contex"]} | more)

    def token(
        self, kid: str = "one", /, headers: dict[str, Any] | None = None, **claims: Any
    ) -> str:
        """A token; a claim that is None is left out."""
        key, algorithm = self.keys[kid]
        usual = {"iss": self.url, "aud": "contex", "sub": "ada", "exp": int(time.time()) + 300}
        payload = {name: value for name, value in (usual | claims).items() if value is not None}
        return jwt.encode(payload, key, algorithm, headers={"kid": kid} | (headers or {}))

    def response(self, path: str) -> tuple[int, bytes]:
        self.requests.append(path)
        if path in self.answer:
            return self.answer[path]
        if path == "/.well-known/openid-configuration":
            found = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}
            return 200, json.dumps(found).encode()
        return (200, self.jwks) if path == "/jwks" else (404, b"")


@contextmanager
def running_issuer() -> Iterator[FakeIssuer]:
    """An issuer with one key, "one"."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = issuer.response(self.path)
            self.send_response(status)
            for name, value in issuer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer = FakeIssuer(f"http://127.0.0.1:{server.server_port}")
    issuer.add("one")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""An S3 server of the tests' own: Versity's gateway over a directory, built by Go."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSION = "v1.8.0"
BINARY = ROOT / ".tools" / "go" / f"versitygw-{VERSION}"
ACCESS, SECRET = "contex-access", "contex-secret"
BUCKET = "contex"


def built() -> Path:
    """The program; it is built once."""
    if not BINARY.exists():
        BINARY.parent.mkdir(parents=True, exist_ok=True)
        package = f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"
        environment = {**os.environ, "GOBIN": str(BINARY.parent)}
        subprocess.run(["go", "install", package], check=True, env=environment, timeout=900)
        (BINARY.parent / "versitygw").replace(BINARY)
    return BINARY


class S3:
    """A server on a free port of the loopback interface."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None
        self.port = _free_port()

    @property
    def objects(self) -> Path:
        """Where its objects lie as files."""
        return self._directory / "data" / BUCKET

    async def start(self) -> None:
        self.objects.mkdir(parents=True, exist_ok=True)
        sidecar = self._directory / "meta"
        sidecar.mkdir(exist_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            str(built()),
            *("--port", f"127.0.0.1:{self.port}", "--access", ACCESS, "--secret", SECRET),
            *("posix", "--sidecar", str(sidecar), str(self._directory / "data")),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(30):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    assert self._process.returncode is None, "the S3 server has ended"
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


def environment(port: int) -> dict[str, str]:
    """By which a client finds the server at a port."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ENDPOINT": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
    }


def has_go() -> bool:
    return BINARY.exists() or shutil.which("go") is not None


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port

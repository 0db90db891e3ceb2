"""Whatever way a server ends, it leaves no process behind."""

from __future__ import annotations

import os
import signal

import psutil

from tests.process.conftest import NewServer
from tests.process.servers import eventually


async def test_a_killed_server_takes_its_processes_along(new_server: NewServer) -> None:
    server = new_server("--workers", "2")
    await server.start()
    await server.logged("worker_serving", 2)
    family = psutil.Process(server.pid).children(recursive=True)
    assert len(family) >= 3
    await server.kill()
    await eventually(lambda: not [member for member in family if _lives(member)])


async def test_a_terminal_interrupts_the_whole_group_once(new_server: NewServer) -> None:
    server = new_server("--workers", "2")
    await server.start()
    await server.logged("worker_serving", 2)
    family = psutil.Process(server.pid).children(recursive=True)
    # As Ctrl-C does: every process of the group but the store, which has its own session.
    for member in family:
        if os.getsid(member.pid) == os.getsid(server.pid):
            member.send_signal(signal.SIGINT)
    code, took = await server.end(signal.SIGINT)
    assert code == 0
    assert took < 10
    await eventually(lambda: not [member for member in family if _lives(member)])
    assert not [line for line in server.log if "Traceback" in line.get("text", "")]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

"""`contex serve` with TLS: several processes behind one port, and what is refused at the start."""

from __future__ import annotations

import asyncio
import re
import ssl
from pathlib import Path

import pytest
from contex import AsyncClient, Tls, Unavailable
from cryptography import x509

from tests.certificates import Authority
from tests.process.conftest import NewServer
from tests.process.servers import eventually
from tests.process.test_metrics import fetch


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.new(tmp_path)


async def test_workers_serve_a_self_signed_certificate_to_all_machines(
    new_server: NewServer, data_dir: Path
) -> None:
    flags = ("--tls-self-signed", "--host", "0.0.0.0", "--workers", "2", "--metrics-port", "0")
    server = new_server(*flags)
    server.environment["CONTEX_ACCESS"] = "true"
    await server.start()
    await server.logged("worker_serving", 2)
    key = (data_dir / "admin.key").read_text().strip()
    assert [line["tls"] for line in server.log if line["event"] == "serving"] == [True, True]
    used = await server.logged("tls_certificate")
    assert used["file"] == str(data_dir / "tls.pem")
    tls = Tls(ca=data_dir / "tls.crt")
    for _ in range(4):  # the kernel spreads connections over the workers
        async with AsyncClient(f"contexs://{server.target}", tls=tls, api_key=key) as client:
            await client.publish("shop", "k", 1)
    metrics = (await server.logged("metrics"))["port"]

    async def left() -> float:
        found = re.search(
            r"^contex_tls_certificate_expiry_seconds (\S+)$",
            await asyncio.to_thread(fetch, metrics),
            re.MULTILINE,
        )
        return float(found[1]) if found else 0.0

    async with asyncio.timeout(30):  # workers report once a second
        while not 364 < await left() / 24 / 3600 < 366:
            await asyncio.sleep(0.05)
    # A client that does not get through leaves no line of gRPC's own in the log.
    with pytest.raises(Unavailable):
        async with AsyncClient(server.target) as plain:
            await plain.health()
    assert (await server.end())[0] == 0
    assert [line for line in server.log if not line["event"]] == []


async def test_every_worker_sees_a_new_certificate(
    new_server: NewServer, authority: Authority
) -> None:
    pair = authority.server()
    server = new_server("--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--workers", "2")
    await server.start()
    await server.logged("worker_serving", 2)

    def serials() -> set[int]:
        found = set()
        for _ in range(16):
            pem = ssl.get_server_certificate(("127.0.0.1", server.port))
            found.add(x509.load_pem_x509_certificate(pem.encode()).serial_number)
        return found

    assert await asyncio.to_thread(serials) == {pair.serial}
    new = authority.server("new")
    pair.replace(new)
    assert await asyncio.to_thread(serials) == {new.serial}
    assert (await server.end())[0] == 0


async def test_a_new_certificate_is_noticed_while_nobody_connects(
    new_server: NewServer, authority: Authority
) -> None:
    pair = authority.server()
    server = new_server("--tls-cert", str(pair.cert), "--tls-key", str(pair.key))
    await server.start()
    pair.replace(authority.server("new", days=(-1, 5)))
    assert (await server.logged("tls_certificate", 2))["subject"] == "CN=new"
    assert (await server.logged("tls_certificate_expires"))["days"] == 4
    assert (await server.end())[0] == 0


async def test_a_certificate_that_can_not_be_served_is_refused_before_anything_starts(
    new_server: NewServer, authority: Authority, data_dir: Path
) -> None:
    pair = authority.server(days=(-2, -1))
    for workers in ("1", "2"):
        server = new_server(
            *("--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--workers", workers)
        )
        with pytest.raises(AssertionError, match=r"can't start: --tls-cert .*crt: expired at"):
            await server.start()
        assert (await server.end())[0] == 1
    assert not list(data_dir.iterdir())


async def test_ports_of_clients_with_certificates(
    new_server: NewServer, authority: Authority
) -> None:
    pair = authority.server()
    server = new_server(
        *("--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--workers", "2"),
        *("--tls-client-ca", str(authority.file), "--tls-client-port", "0"),
    )
    await server.start()
    port = (await server.logged("serving"))["client_port"]
    await eventually(lambda: sum(line["event"] == "serving" for line in server.log) == 2)
    assert {line["client_port"] for line in server.log if line["event"] == "serving"} == {port}
    own = Tls(authority.file, *authority.issue("agent"))
    async with AsyncClient(f"contexs://127.0.0.1:{port}", tls=own) as client:
        assert await client.health() == "SERVING"
    assert (await server.end())[0] == 0

#!/usr/bin/env bash
# gRPC (Python): a server takes an Ed25519 or P-521 key and serves with it; a client of the same
# package can't connect.
#
# Versions     grpcio 1.85.1, cryptography 50.0.2 (PyPI), Python 3.11 with OpenSSL 3.0. Ed25519 was
#              reported of grpcio 1.32 too, in grpc/grpc#24252.
# Behaviour    A server is given a valid certificate with its key: ssl_server_credentials takes
#              them, the port is opened, the server starts. A grpcio client that trusts the
#              certificate fails in the handshake, at every call. Python's own ssl completes one
#              with the same server: that can sign with these keys, but the client doesn't offer to
#              verify them.
# One would    have guessed: such a key is refused where it is given, or both sides of one package
#              can use it. P-256, P-384 and RSA work.
# Seen         P-256 answered; P-521 and Ed25519 "UNAVAILABLE: failed to connect to all addresses;
#              … Handshake read failed (Socket closed)", which tells nothing of keys. The server
#              logs NO_COMMON_SIGNATURE_ALGORITHMS, at level INFO. ssl: TLSv1.3 and h2 with each.
# What helps   Look at the kind of key before giving it to gRPC.
#
# Fails if a grpcio client connects, if the server refuses such a key, or doesn't serve ssl either.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  grpcio==1.85.1 cryptography==50.0.2

GRPC_VERBOSITY=ERROR "$folder/venv/bin/python" - <<'PYTHON'
import datetime
import ipaddress
import socket
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519


def self_signed(key) -> tuple[bytes, bytes]:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
    )
    signed = isinstance(key, ec.EllipticCurvePrivateKey)
    certificate = builder.sign(key, hashes.SHA512() if signed else None)
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    return private, certificate.public_bytes(pem)


def asked(port: int, certificate: bytes) -> str:
    trusts = grpc.ssl_channel_credentials(certificate)
    direct = [("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(f"127.0.0.1:{port}", trusts, options=direct) as channel:
        try:
            return channel.unary_unary("/service/Method")(b"", timeout=10).decode()
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"


def shaken(port: int, certificate: bytes) -> str:
    context = ssl.create_default_context(cadata=certificate.decode())
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        return f"{tls.version()} {tls.selected_alpn_protocol()}"


print(f"grpcio {grpc.__version__}, {ssl.OPENSSL_VERSION}")
answer = grpc.unary_unary_rpc_method_handler(lambda request, context: b"answered")
service = grpc.method_handlers_generic_handler("service", {"Method": answer})
as_described = True
for kind, key, works in (
    ("P-256", ec.generate_private_key(ec.SECP256R1()), True),
    ("P-521", ec.generate_private_key(ec.SECP521R1()), False),
    ("Ed25519", ed25519.Ed25519PrivateKey.generate(), False),
):
    private, certificate = self_signed(key)
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([service])
    credentials = grpc.ssl_server_credentials([(private, certificate)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        # Twice: it is not the first handshake alone.
        by_grpc = [asked(port, certificate) for _ in range(2)]
        by_ssl = shaken(port, certificate)
    finally:
        server.stop(0).wait(10)
    print(f"{kind}: served; ssl {by_ssl}; grpcio:", *by_grpc, sep="\n    ")
    if works:
        as_described &= by_grpc == ["answered"] * 2
    else:
        as_described &= all(said.startswith("UNAVAILABLE") for said in by_grpc)
    as_described &= by_ssl == "TLSv1.3 h2"
if not as_described:
    sys.exit("changed: server and client of grpcio no longer differ like this")
print("as described: the server takes P-521 and Ed25519, and its client connects to neither")
PYTHON

from __future__ import annotations

import pytest
from contex_server.access.certificates import Part, identity_of
from hypothesis import given
from hypothesis import strategies as st

TLS = {"transport_security_type": [b"ssl"], "x509_pem_cert": [b"-----BEGIN"]}


@pytest.mark.parametrize(
    ("context", "part", "identity"),
    [
        ({"peer_uri": [b"spiffe://a/b", b"spiffe://a/c"]}, None, "cert:spiffe://a/b"),
        ({"x509_common_name": [b"agent"]}, None, "cert:agent"),
        ({"x509_common_name": [b"agent"], "peer_uri": [b"u:x"]}, None, "cert:u:x"),
        ({"x509_common_name": [b"agent"]}, "uri", None),
        ({"peer_dns": [b"a.example"]}, "dns", "cert:a.example"),
        ({"peer_dns": [b"a.example"]}, None, None),
        ({"peer_email": [b"a@b.example"]}, "email", "cert:a@b.example"),
        ({"x509_common_name": ["Jörg".encode()]}, "cn", "cert:Jörg"),
        ({"x509_common_name": [b"\xff"]}, "cn", None),
        ({"x509_common_name": [b"a\nb"]}, "cn", None),
        ({"x509_common_name": [b"a\0b"]}, "cn", None),
        # Too long a URI does not make it the holder of the common name.
        ({"peer_uri": [b"x" * 200], "x509_common_name": [b"admin"]}, None, None),
        ({}, None, None),
    ],
)
def test_whom_a_certificate_names(
    context: dict[str, list[bytes]], part: Part | None, identity: str | None
) -> None:
    assert identity_of(TLS | context, part) == (identity or "")
    assert identity_of(context, part) == ""


@given(
    st.dictionaries(
        st.sampled_from(["peer_uri", "peer_dns", "peer_email", "x509_common_name"]),
        st.lists(st.binary(max_size=200), max_size=3),
    ),
    st.sampled_from([None, "uri", "dns", "email", "cn"]),
)
def test_every_identity_is_marked_as_a_certificates(
    context: dict[str, list[bytes]], part: Part | None
) -> None:
    identity = identity_of(TLS | context, part)
    assert not identity or identity.startswith("cert:")

"""Which tokens are taken, whom they name, and what others are told."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from contex_server.access import issuer_keys
from contex_server.access.issuer_keys import FetchFailed, fetch_keys, usable
from contex_server.access.tokens import MOST_BYTES, TokenVerifier
from contex_server.kernel.config import Issuer, Settings
from contex_server.kernel.errors import ContexError, Reason
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.issuer import FakeIssuer, jwk, new_key, running_issuer


@pytest.fixture
def issuer() -> Iterator[FakeIssuer]:
    with running_issuer() as running:
        yield running


@asynccontextmanager
async def verifying(*issuers: Issuer, **timing: float) -> AsyncIterator[TokenVerifier]:
    verifier = TokenVerifier(issuers, **timing)
    verifier.start()
    try:
        yield verifier
    finally:
        await verifier.close()


async def refusal(verifier: TokenVerifier, token: str) -> str:
    """Why a token is refused, with the cause."""
    with pytest.raises(ContexError) as caught:
        await verifier.verify(token)
    error = caught.value
    assert error.reason is Reason.UNAUTHENTICATED
    for part in filter(None, token.split(".")):
        assert part not in error.message
    return f"{error.metadata['cause']}: {error.message}"


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
async def test_a_token_names_its_holder(issuer: FakeIssuer, algorithm: str) -> None:
    issuer.add("one", algorithm)
    expires = int(time.time()) + 100
    async with verifying(issuer.settings()) as verifier:
        claims = await verifier.verify(issuer.token(exp=expires, groups=["ops", "dev", "ops", 3]))
    assert claims.identity == "acme:ada"
    assert claims.groups == {"group:acme:ops", "group:acme:dev"}
    assert claims.tenant is None
    assert claims.expires_s == expires + 60


async def test_claims_have_the_names_that_are_set(issuer: FakeIssuer) -> None:
    chosen = issuer.settings(
        identity_claim="email",
        groups_claim="realm.roles",
        tenant_claim="https://acme.example/tenant",
        audiences=["other", "contex"],
    )
    more = {"realm": {"roles": ["ops"]}, "https://acme.example/tenant": "acme-eu"}
    async with verifying(chosen) as verifier:
        claims = await verifier.verify(issuer.token(email="a@b.example", **more))
        assert claims.identity == "acme:a@b.example"
        assert claims.groups == {"group:acme:ops"}
        assert claims.tenant == "acme-eu"
        for verified in (False, "false", None.__class__.__name__):
            token = issuer.token(email="a@b.example", email_verified=verified, **more)
            assert "not verified" in await refusal(verifier, token)
        assert "has no email" in await refusal(verifier, issuer.token(**more))
        assert "has no valid https:" in await refusal(verifier, issuer.token(email="a@b.example"))
    async with verifying(issuer.settings(groups_claim=None)) as verifier:
        assert (await verifier.verify(issuer.token(groups=["ops"]))).groups == set()


@pytest.mark.parametrize("groups", ["ops", ["ops"], ["ops", "", "x" * 200, "a\nb", {}]])
async def test_groups_that_are_no_names_give_nothing(issuer: FakeIssuer, groups: Any) -> None:
    async with verifying(issuer.settings()) as verifier:
        assert (await verifier.verify(issuer.token(groups=groups))).groups == {"group:acme:ops"}


async def test_clocks_may_differ_by_the_leeway(issuer: FakeIssuer) -> None:
    now = int(time.time())
    async with verifying(issuer.settings(leeway_s=60)) as verifier:
        for fine in ({"exp": now - 50}, {"nbf": now + 50}, {"iat": now + 50}):
            await verifier.verify(issuer.token(**fine))
        expired = await refusal(verifier, issuer.token(exp=now - 61))
        assert expired == "EXPIRED: the token has expired"
        for early in ({"nbf": now + 90}, {"iat": now + 90}):
            assert await refusal(verifier, issuer.token(**early)) == (
                "INVALID: the token is not valid yet"
            )


async def test_a_token_that_was_verified_expires_all_the_same(issuer: FakeIssuer) -> None:
    async with verifying(issuer.settings(leeway_s=0)) as verifier:
        token = issuer.token(exp=int(time.time()) + 2)
        await verifier.verify(token)
        async with asyncio.timeout(30):
            while True:
                try:
                    await verifier.verify(token)
                except ContexError as error:
                    assert error.metadata == {"cause": "EXPIRED"}  # noqa: PT017
                    break
                await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"aud": "another"}, "is for another audience"),
        ({"aud": ["another", "third"]}, "is for another audience"),
        ({"aud": None}, "has no aud"),
        ({"exp": None}, "has no exp"),
        ({"exp": "soon"}, "is no valid JWT"),
        ({"iss": "https://other.example"}, "is of an issuer that is not trusted"),
        ({"iss": None}, "is of an issuer that is not trusted"),
        ({"sub": None}, "has no sub"),
        ({"sub": ""}, "has no sub"),
        ({"sub": "a\nb"}, "has a sub that is no valid identity"),
        ({"sub": "x" * 200}, "has a sub that is no valid identity"),
    ],
)
async def test_what_is_wrong_with_a_token_is_told(
    issuer: FakeIssuer, claims: dict[str, Any], said: str
) -> None:
    async with verifying(issuer.settings()) as verifier:
        assert await refusal(verifier, issuer.token(**claims)) == f"INVALID: the token {said}"


async def test_only_signatures_of_the_issuer_count(issuer: FakeIssuer) -> None:
    issuer.add("rsa", "RS256")
    payload = jwt.decode(issuer.token(), options={"verify_signature": False})
    public = issuer.keys["rsa"][0].public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def encoded(value: Any) -> str:
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    def hmac(algorithm: str) -> str:
        """A token that takes the public key for a secret."""
        head = encoded({"alg": algorithm, "kid": "rsa"}) + "." + encoded(payload)
        signer = jwt.get_algorithm_by_name(algorithm)
        return f"{head}.{encoded(signer.sign(head.encode(), pem))}"

    unsigned = encoded({"alg": "none", "kid": "one"}) + "." + encoded(payload) + "."
    async with verifying(issuer.settings()) as verifier:
        for token in (unsigned, hmac("HS256"), hmac("HS512")):
            assert "an algorithm that is not allowed" in await refusal(verifier, token)
        head, _, signature = issuer.token().split(".")
        changed = encoded(payload | {"sub": "admin"})
        assert "wrong signature" in await refusal(verifier, f"{head}.{changed}.{signature}")
        other = jwt.encode(payload, new_key("ES256"), "ES256", headers={"kid": "one"})
        assert "wrong signature" in await refusal(verifier, other)
        crossed = jwt.encode(payload, issuer.keys["one"][0], "ES256", headers={"kid": "rsa"})
        assert "does not have" in await refusal(verifier, crossed)
        own = jwk(key := new_key("ES256"), "ES256", "one")
        embedded = jwt.encode(payload, key, "ES256", headers={"kid": "one", "jwk": own})
        assert "wrong signature" in await refusal(verifier, embedded)
        critical = issuer.token(headers={"crit": ["exp"], "exp": 1})
        assert await refusal(verifier, critical) == "INVALID: the token is no JWT"
    assert "HS256" not in str(Issuer.model_fields["algorithms"].annotation)


async def test_an_issuer_says_nothing_of_another_ones_tokens(issuer: FakeIssuer) -> None:
    with running_issuer() as second:
        async with verifying(issuer.settings(), second.settings(name="second")) as verifier:
            assert (await verifier.verify(second.token())).identity == "second:ada"
            assert "wrong signature" in await refusal(verifier, second.token(iss=issuer.url))


async def test_a_new_key_is_fetched_when_a_token_names_it(issuer: FakeIssuer) -> None:
    async with verifying(issuer.settings(), fetch_again_s=0.0) as verifier:
        old = issuer.token()
        await verifier.verify(old)
        issuer.add("two")
        await verifier.verify(issuer.token("two"))
        await verifier.verify(old)
        del issuer.keys["one"]
        issuer.add("three")
        await verifier.verify(issuer.token("three"))
        # It was verified before, and its key is withdrawn.
        assert "does not have" in await refusal(verifier, old)


async def test_forged_key_ids_make_nobody_fetch(issuer: FakeIssuer) -> None:
    async with verifying(issuer.settings()) as verifier:
        await verifier.verify(issuer.token())
        fetched = len(issuer.requests)
        tokens = [issuer.token(headers={"kid": f"forged-{n}"}) for n in range(200)]
        said = await asyncio.gather(*(refusal(verifier, token) for token in tokens))
        assert set(said) == {
            "INVALID: the token is signed with a key that its issuer does not have"
        }
        assert len(issuer.requests) == fetched
        await verifier.verify(issuer.token())


async def test_many_at_once_share_a_fetch(issuer: FakeIssuer) -> None:
    async with verifying(issuer.settings()) as verifier:
        await asyncio.gather(*(verifier.verify(issuer.token(jti=str(n))) for n in range(100)))
    assert issuer.requests == ["/.well-known/openid-configuration", "/jwks"]


async def test_keys_are_good_while_their_issuer_is_away(issuer: FakeIssuer) -> None:
    async with verifying(issuer.settings(), refresh_s=0.01, fetch_again_s=0.01) as verifier:
        await verifier.verify(issuer.token())
        issuer.answer["/jwks"] = 503, b""
        before = len(issuer.requests)
        async with asyncio.timeout(30):
            while len(issuer.requests) < before + 6:
                await asyncio.sleep(0.01)
        await verifier.verify(issuer.token(jti="new"))
    issuer.answer.clear()
    async with verifying(issuer.settings(), keep_s=0.2, fetch_again_s=30) as verifier:
        await verifier.verify(token := issuer.token())
        async with asyncio.timeout(30):
            while (said := await answer(verifier, token)) == "acme:ada":
                await asyncio.sleep(0.02)
        assert said == "the keys of issuer 'acme' could not be fetched; the server's log says why"


async def answer(verifier: TokenVerifier, token: str) -> str:
    try:
        return (await verifier.verify(token)).identity
    except ContexError as error:
        return error.message


async def test_an_issuer_that_comes_late_is_found(issuer: FakeIssuer) -> None:
    issuer.answer["/jwks"] = 503, b""
    with capture_logs() as logs:
        async with verifying(issuer.settings(), fetch_again_s=0.01) as verifier:
            with pytest.raises(ContexError) as caught:
                await verifier.verify(issuer.token())
            assert caught.value.reason is Reason.UNAUTHENTICATED
            assert caught.value.retry_after_ms
            issuer.answer.clear()
            async with asyncio.timeout(30):
                while await answer(verifier, issuer.token()) != "acme:ada":
                    await asyncio.sleep(0.01)
    assert [log["event"] for log in logs] == ["issuer_keys_not_fetched", "issuer_keys"]
    assert "503" in logs[0]["error"]


@pytest.mark.parametrize(
    ("path", "status", "body", "said"),
    [
        ("/jwks", 200, b"no json", "is no JSON"),
        ("/jwks", 200, b"[" * 100_000, "is no JSON"),
        ("/jwks", 200, b"[]", "is no JSON object"),
        ("/jwks", 200, b'{"keys": 3}', "is no JWKS"),
        ("/jwks", 200, b" " * (1 << 21), "more than 1,048,576 bytes"),
        ("/jwks", 500, b"", "500"),
        ("/jwks", 302, b"", "302"),
        ("/.well-known/openid-configuration", 404, b"", "404"),
        ("/.well-known/openid-configuration", 200, b'{"issuer": "x"}', "is of another issuer"),
    ],
)
def test_what_is_no_key_set_is_told(
    issuer: FakeIssuer, path: str, status: int, body: bytes, said: str
) -> None:
    issuer.answer[path] = status, body
    issuer.headers["Location"] = "/elsewhere"
    with pytest.raises(FetchFailed, match=said):
        fetch_keys(issuer.settings())
    assert "/elsewhere" not in issuer.requests


def test_a_key_set_is_not_fetched_from_anywhere(issuer: FakeIssuer) -> None:
    for url in ("http://192.0.2.1/jwks", "file:///etc/passwd", 3):
        found = {"issuer": issuer.url, "jwks_uri": url}
        body = json.dumps(found).encode()
        issuer.answer["/.well-known/openid-configuration"] = 200, body
        with pytest.raises(FetchFailed, match="no jwks_uri that can be used"):
            fetch_keys(issuer.settings())


def test_an_answer_that_drips_is_given_up(
    issuer: FakeIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_keys, "_FETCH_S", 0.0)
    with pytest.raises(FetchFailed, match="not in 0 s"):
        fetch_keys(issuer.settings())


def test_nobody_there_is_told() -> None:
    with running_issuer() as gone:
        pass
    with pytest.raises(FetchFailed, match="refused"):
        fetch_keys(gone.settings())


async def test_keys_may_be_in_a_file(issuer: FakeIssuer, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    chosen = issuer.settings(jwks_file=file)
    with pytest.raises(FetchFailed, match=r"jwks.json: No such file"):
        fetch_keys(chosen)
    file.write_bytes(issuer.jwks)
    async with verifying(chosen, fetch_again_s=0.0) as verifier:
        await verifier.verify(issuer.token())
        issuer.add("two")
        file.write_bytes(issuer.jwks)
        await verifier.verify(issuer.token("two"))
    assert issuer.requests == []


def test_keys_that_should_not_be_used_are_left_out() -> None:
    good = jwk(new_key("ES256"), "ES256", "good")
    weak = jwk(rsa.generate_private_key(65_537, 1_024), "RS256", "weak")
    secret = {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "secret"}
    sealing = good | {"use": "enc"}
    odd: list[Any] = [3, None, [], {}, {"kty": "EC"}, good | {"alg": "HS256"}, good | {"kid": 3}]
    assert [found["kid"] for found, _ in usable([*odd, weak, secret, sealing, good])] == ["good"]


async def test_a_token_without_a_key_id_is_of_the_only_key_that_fits(issuer: FakeIssuer) -> None:
    payload = jwt.decode(issuer.token(), options={"verify_signature": False})
    token = jwt.encode(payload, issuer.keys["one"][0], "ES256")
    issuer.add("rsa", "RS256")
    async with verifying(issuer.settings()) as verifier:
        assert (await verifier.verify(token)).identity == "acme:ada"
    issuer.add("two")
    async with verifying(issuer.settings()) as verifier:
        assert "does not have" in await refusal(verifier, token)


async def test_what_is_verified_costs_microseconds(issuer: FakeIssuer) -> None:
    async with verifying(issuer.settings()) as verifier:
        token = issuer.token(groups=[f"g{n}" for n in range(50)])
        await verifier.verify(token)
        started = time.thread_time()
        for _ in range(1_000):
            await verifier.verify(token)
        assert time.thread_time() - started < 0.05


_BASE64 = st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode().strip("="))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def _segment(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


_NAMES = st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jku", "x5u", "zip"])
_HEADERS = st.dictionaries(_NAMES, _JSON | st.sampled_from(["ES256", "none", "RS256", "one"]))
_CLAIM = st.sampled_from(["exp", "nbf", "iat", "aud", "sub", "groups", "jti", "email"])


@given(
    st.text(max_size=200)
    | st.lists(_BASE64, max_size=6).map(".".join)
    | st.tuples(_HEADERS.map(_segment), _JSON.map(_segment), _BASE64).map(".".join)
)
async def test_garbage_is_refused(token: str) -> None:
    verifier = TokenVerifier([])
    with pytest.raises(ContexError) as caught:
        await verifier.verify(token)
    assert caught.value.metadata == {"cause": "INVALID"}


@given(st.dictionaries(_CLAIM, _JSON), _HEADERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_odd_claims_of_the_issuer_itself_are_refused_or_taken(
    tmp_path: Path, claims: dict[str, Any], headers: dict[str, Any]
) -> None:
    key = _OWN.keys["one"][0]
    (tmp_path / "jwks").write_bytes(_OWN.jwks)
    usual = {"iss": _OWN.url, "aud": "contex", "sub": "ada", "exp": int(time.time()) + 300}
    head = _segment({"alg": "ES256", "kid": "one"} | headers) + "." + _segment(usual | claims)
    signature = jwt.get_algorithm_by_name("ES256").sign(head.encode(), key)
    token = f"{head}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
    verifier = TokenVerifier([_OWN.settings(jwks_file=tmp_path / "jwks")])
    try:
        found = await verifier.verify(token)
    except ContexError as error:
        assert error.reason is Reason.UNAUTHENTICATED  # noqa: PT017
    else:
        assert found.identity.startswith("acme:")
        assert all(group.startswith("group:acme:") for group in found.groups)


_OWN = FakeIssuer("https://issuer.example")
_OWN.add("one")


async def test_a_token_has_its_limit() -> None:
    assert "longer than 16,384 bytes" in await refusal(TokenVerifier([]), "x" * (MOST_BYTES + 1))


async def test_no_token_is_logged(issuer: FakeIssuer) -> None:
    with capture_logs() as logs:
        async with verifying(issuer.settings()) as verifier:
            for token in (issuer.token(email="secret@b.example"), issuer.token(aud="secret")):
                await answer(verifier, token)
    text = str(logs)
    assert "secret" not in text
    assert "eyJ" not in text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "cert"}, "is the beginning of other identities"),
        ({"name": "Group"}, "is the beginning of other identities"),
        ({"name": "a:b"}, "should match pattern"),
        ({"name": "a\n"}, "should match pattern"),
        ({"audiences": []}, "at least 1 item"),
        ({"issuer": "http://issuer.example"}, "not an https:// URL"),
        ({"issuer": "anything"}, "not an https:// URL"),
        ({"jwks_url": "http://issuer.example/jwks"}, "not an https:// URL"),
        ({"jwks_url": "https://a:b@issuer.example/jwks"}, "not an https:// URL"),
        ({"jwks_url": "https://i.example", "jwks_file": "f"}, "give one of them"),
        ({"algorithms": ["none"]}, "Input should be 'RS256'"),
        ({"algorithms": ["HS256"]}, "Input should be 'RS256'"),
        ({"algorithms": []}, "at least 1 item"),
        ({"leeway_s": -1}, "greater than or equal to 0"),
        ({"secret": "x"}, "Extra inputs"),
    ],
)
def test_settings_of_an_issuer_are_checked(fields: dict[str, Any], said: str) -> None:
    usual = {"name": "acme", "issuer": "https://issuer.example", "audiences": ["contex"]}
    assert Issuer(**usual).leeway_s == 60
    assert Issuer(**usual | {"issuer": "anything", "jwks_file": "f"}).jwks_file == Path("f")
    with pytest.raises(ValueError, match=said):
        Issuer(**usual | fields)


def test_issuers_are_set_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"name": "acme", "issuer": "https://issuer.example", "audiences": ["contex"]}
    monkeypatch.setenv("CONTEX_ISSUERS", json.dumps([one]))
    assert Settings().issuers == (Issuer(**one),)
    for other in ({"name": "other"}, {"issuer": "https://other.example"}):
        monkeypatch.setenv("CONTEX_ISSUERS", json.dumps([one, one | other]))
        with pytest.raises(ValueError, match="two have the same"):
            Settings()

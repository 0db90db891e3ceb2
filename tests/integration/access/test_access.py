"""Keys and rights, over sockets."""

from __future__ import annotations

from contex.v1 import access_pb2
from contex.v1 import access_service_pb2 as pb

from tests.integration.access.support import Deployment, grant
from tests.integration.support import DEADLINE_S, P, event, refusal


async def test_callers_have_to_prove_who_they_are(deployment: Deployment) -> None:
    nobody = deployment.with_key("")
    refused = await refusal(nobody.publish(event("a")))
    assert refused.reason == "UNAUTHENTICATED"
    assert refused.metadata["cause"] == "MISSING"
    forged = deployment.with_key(deployment.secret[:-4] + "AAAA")
    refused = await refusal(forged.publish(event("a")))
    assert refused.metadata["cause"] == "INVALID"
    assert await deployment.admin.publish(event("a"))
    me = await deployment.admin.access.WhoAmI(pb.WhoAmIRequest(), timeout=DEADLINE_S)
    assert (me.identity, me.credential) == ("admin", pb.CREDENTIAL_API_KEY)
    assert [(g.role, list(g.projects)) for g in me.grants] == [("admin", ["*"])]


async def test_the_publisher_is_the_identity_that_was_proved(deployment: Deployment) -> None:
    billing = await deployment.caller("billing", grant("publisher", "billing/*"))
    await billing.publish(event("billing/x"), publisher="somebody else")
    await billing.publish(event("billing/x"))
    published = await deployment.admin.log()
    assert [(e.publisher, e.claimed_publisher) for e in published] == [
        ("billing", "somebody else"),
        ("billing", ""),
    ]
    refused = await refusal(billing.publish(event("billing/x"), event("hr/x")))
    assert refused.reason == "PERMISSION_DENIED"
    assert "events[1].data_key" in refused.message
    refused = await refusal(billing.page())
    assert refused.reason == "PERMISSION_DENIED"
    assert len(await deployment.admin.log()) == 2


async def test_check_access_explains(deployment: Deployment) -> None:
    await deployment.caller("billing", grant("publisher", "billing/*", project="sh*"))
    ask = deployment.admin.access.CheckAccess
    request = pb.CheckAccessRequest(
        identity="billing", permission=access_pb2.PERMISSION_PUBLISH, project=P
    )
    said = await ask(request, timeout=DEADLINE_S)
    assert said.allowed
    assert list(said.data_keys) == ["billing/*"]
    request.data_key = "hr/x"
    said = await ask(request, timeout=DEADLINE_S)
    assert not said.allowed
    assert said.grants[0].problem == "'hr/x' does not fit its data keys"
    by_method = pb.CheckAccessRequest(identity="billing", method="GetStats", project=P)
    said = await ask(by_method, timeout=DEADLINE_S)
    assert not said.allowed
    assert "does not have OBSERVE" in said.grants[0].problem


async def test_a_revoked_key_ends_its_streams(deployment: Deployment) -> None:
    issued = await deployment.key("reader", grant("readonly"))
    reader = deployment.with_key(issued.secret_key)
    await deployment.admin.publish(event("a"))
    stream = reader.subscribe()
    await stream.live()
    request = pb.RevokeKeyRequest(key_id=issued.key.key_id)
    await deployment.admin.access.RevokeKey(request, timeout=DEADLINE_S)
    refused = await stream.refusal()
    assert (refused.reason, refused.metadata["cause"]) == ("UNAUTHENTICATED", "REVOKED")
    refused = await refusal(reader.page())
    assert refused.metadata["cause"] == "REVOKED"


async def test_other_rights_end_a_stream_and_its_cursor_goes_on(deployment: Deployment) -> None:
    reader = await deployment.caller("reader", grant("readonly", "public/*"))
    await deployment.admin.publish(event("public/a"), event("secret/a"))
    stream = reader.subscribe()
    await stream.live()
    assert stream.keys == ["public/a"]
    await deployment.bind("reader", grant("readonly", "secret/*"))
    refused = await stream.refusal()
    assert refused.reason == "ACCESS_CHANGED"
    again = reader.subscribe(cursor=stream.cursor)
    await deployment.admin.publish(event("public/b"), event("secret/b"))
    await again.count(1)
    assert again.keys == ["secret/b"]
    await deployment.bind("reader")
    assert (await again.refusal()).reason == "PERMISSION_DENIED"


async def test_an_identity_names_its_tenant(deployment: Deployment) -> None:
    await deployment.tenant("acme", "acme-*")
    issued = await deployment.key("acme/billing", grant("publisher"))
    assert issued.key.tenant == "acme"
    refused = await refusal(deployment.key("nobody/billing"))
    assert refused.message == "tenant: there is no tenant 'nobody'"

"""Who may do what: tokens, owners, rates, TLS and TURN credentials, and what is told when a server goes away."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import hashlib
import hmac
import json
import logging
import signal
import ssl
import sys
import time

import aiohttp
import cv2
import pytest
from double import draw
from hypothesis import given
from hypothesis import strategies as st
from serving import run, serving
from visavis.server.config import ServerConfig
from visavis.server.errors import ApiError
from visavis.server.limits import MAX_CALLERS, RateLimit
from visavis.server.logs import JsonFormatter
from visavis.server.routes import GUARD
from visavis.server.tokens import Claims, TokenError, sign, turn_credentials, verify

PNG = cv2.imencode(".png", draw(0.0))[1].tobytes()
SECRET = b"0123456789abcdef"
LATER = time.time() + 3600


@given(st.text(max_size=30), st.sets(st.text(max_size=10), max_size=4), st.none() | st.text(max_size=20))
def test_claims_come_back_from_their_token(subject, grants, session):
    claims = Claims(subject, frozenset(grants), session, float(int(LATER)))
    token = sign(SECRET, claims)
    assert verify(SECRET, token) == claims
    with pytest.raises(TokenError, match="secret"):
        verify(b"another secret..", token)


def test_a_token_is_a_jwt_that_others_can_read_and_make():
    head, body, signature = sign(SECRET, Claims("ada", frozenset({"sessions"}), expires=LATER)).split(".")
    pad = "=" * 3
    assert json.loads(base64.urlsafe_b64decode(head + pad)) == {"alg": "HS256", "typ": "JWT"}
    assert json.loads(base64.urlsafe_b64decode(body + pad))["grants"] == ["sessions"]
    wanted = hmac.new(SECRET, f"{head}.{body}".encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(signature + pad) == wanted


def forged(header, body, secret=SECRET):
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, body)]
    signed = b".".join(parts)
    mac = base64.urlsafe_b64encode(hmac.digest(secret, signed, "sha256")).rstrip(b"=")
    return (signed + b"." + mac).decode()


@pytest.mark.parametrize(
    "token",
    [
        "", "a.b", "a.b.c", "....", "x" * 5000, "\udcff.\udcff.\udcff",
        forged({"alg": "none"}, {"sub": "x", "exp": LATER}),
        forged({"alg": "HS384"}, {"sub": "x", "exp": LATER}),
        forged({"alg": "HS256"}, {"sub": "x", "exp": time.time() - 1}),
        forged({"alg": "HS256"}, {"sub": "x"}),
        forged({"alg": "HS256"}, {"sub": "x", "exp": True}),
        forged({"alg": "HS256"}, {"sub": 3, "exp": LATER}),
        forged({"alg": "HS256"}, {"sub": "x", "exp": LATER, "grants": "sessions"}),
        forged({"alg": "HS256"}, {"sub": "x", "exp": LATER, "session": 4}),
        forged({"alg": "HS256"}, ["sub"]),
        forged({"alg": "HS256"}, {"sub": "x", "exp": LATER}, b"not the secret"),
        sign(SECRET, Claims("x", expires=LATER)).rsplit(".", 1)[0] + ".",
    ],
)  # fmt: skip
def test_other_tokens_are_refused(token):
    with pytest.raises(TokenError):
        verify(SECRET, token)


@given(st.text(max_size=60))
def test_any_text_is_no_token(text):
    with pytest.raises(TokenError):
        verify(SECRET, text)


def test_where_tokens_are_asked_for_each_grant_opens_its_own_door():
    async def go():
        async with serving(auth=True) as api:
            guard = api.server.app[GUARD]
            keys = {
                grant: {"Authorization": "Bearer " + guard.access_token("ada", frozenset({grant}), 60)}
                for grant in ("avatars", "sessions", "metrics")
            }
            doors = {"/v1/avatars": "sessions", "/metrics": "metrics", "/v1/avatars/demo": "sessions"}
            for path, grant in doors.items():
                assert (await api.call("GET", path))[0] == 401
                for name, key in keys.items():
                    assert (await api.call("GET", path, headers=key))[0] == (200 if name == grant else 403), (
                        path
                    )
            assert (await api.call("POST", "/v1/avatars", headers=keys["sessions"]))[0] == 403
            assert (await api.call("POST", "/v1/sessions", headers=keys["avatars"], json={}))[0] == 403
            while (await api.call("GET", "/v1/avatars/demo", headers=keys["sessions"]))[1][
                "state"
            ] != "ready":
                await asyncio.sleep(0.02)
            status, info = await api.call(
                "POST", "/v1/sessions", headers=keys["sessions"], json={"avatar": "demo"}
            )
            assert status == 201
            path = f"/v1/sessions/{info['id']}"
            assert (await api.call("GET", path, headers=keys["sessions"]))[0] == 401, (
                "not the session's token"
            )
            key = {"Authorization": "Bearer " + info["token"]}
            assert (await api.call("GET", path, headers=key))[0] == 200
            assert (await api.call("GET", "/metrics", headers=key))[0] == 403
            for path in ("/", "/app.js", "/healthz", "/v1/config"):
                assert (await api.call("GET", path))[0] == 200, "the page itself is open"

    run(go())


def test_who_may_watch_a_session_can_do_nothing_else_with_it():
    async def go():
        async with serving(auth=True) as api:
            guard = api.server.app[GUARD]
            ada = {"Authorization": "Bearer " + guard.access_token("ada", frozenset({"sessions"}), 60)}
            while (await api.call("GET", "/v1/avatars/demo", headers=ada))[1]["state"] != "ready":
                await asyncio.sleep(0.02)
            (_, info), (_, other) = [
                await api.call("POST", "/v1/sessions", headers=ada, json={"avatar": "demo"}) for _ in range(2)
            ]
            page, _, fragment = info["watch"].partition("#")
            address = dict(part.split("=", 1) for part in fragment.split("&"))
            assert page == "/watch" and address["session"] == info["id"]
            key = {"Authorization": "Bearer " + address["key"]}
            path = f"/v1/sessions/{info['id']}"
            status, state = await api.call("GET", path, headers=key)
            assert status == 200 and state["ice_servers"] == []
            sdp = key | {"Content-Type": "application/sdp"}
            status, answer = await api.call("POST", path + "/whep", headers=sdp, data=b"v=0")
            assert status == 400 and answer["error"]["code"] == "bad_sdp", "let in, and its offer read"
            for method, kind in (("PATCH", "whep"), ("DELETE", "whep")):
                assert (await api.call(method, f"{path}/{kind}/none", headers=key))[0] == 404
            for method, rest in (
                ("PATCH", ""), ("DELETE", ""), ("POST", "/clear"), ("POST", "/offer"), ("POST", "/whip"), ("GET", "/audio"),
                ("POST", "/recording"), ("DELETE", "/recording"), ("PATCH", "/whip/none"), ("DELETE", "/whip/none"),
                ("DELETE", "/offer/none"),
            ):  # fmt: skip
                status, answer = await api.call(method, path + rest, headers=key, json={})
                assert (status, answer["error"]["code"]) == (403, "not_granted"), rest
            assert (await api.call("GET", f"/v1/sessions/{other['id']}", headers=key))[0] == 401
            assert (await api.call("POST", f"/v1/sessions/{other['id']}/whep", headers=sdp, data=b"v=0"))[
                0
            ] == 401
            for method, there in (("POST", "/v1/sessions"), ("GET", "/v1/avatars"), ("GET", "/metrics")):
                assert (await api.call(method, there, headers=key, json={"avatar": "demo"}))[0] == 403, there

    run(go())


def test_only_the_watch_page_may_be_framed_and_by_allowed_origins_only():
    async def go():
        async with serving(allowed_origins=("https://agent.example",)) as api:
            policies = {}
            for path in ("/", "/watch", "/app.js"):
                async with api.http.get(api.url + path) as response:
                    policies[path] = response.headers["Content-Security-Policy"]
            assert policies["/watch"].endswith("frame-ancestors 'self' https://agent.example")
            for path in ("/", "/app.js"):
                assert policies[path].endswith("frame-ancestors 'none'")
            assert policies["/"].split("frame-ancestors")[0] == policies["/watch"].split("frame-ancestors")[0]

    run(go())


def test_a_photo_is_its_owners_alone():
    async def go():
        async with serving(auth=True) as api:
            guard, grants = api.server.app[GUARD], frozenset({"avatars", "sessions"})
            ada, bob = (
                {"Authorization": "Bearer " + guard.access_token(name, grants, 60)} for name in ("ada", "bob")
            )
            form = aiohttp.FormData({"consent": "mine"})
            form.add_field("photo", PNG, filename="p.png")
            status, person = await api.call("POST", "/v1/avatars", data=form, headers=ada)
            assert status == 202
            where = f"/v1/avatars/{person['id']}"
            while (await api.call("GET", where, headers=ada))[1]["state"] != "ready":
                await asyncio.sleep(0.02)
            listed = (await api.call("GET", "/v1/avatars", headers=ada))[1]["avatars"]
            assert [p["id"] for p in listed] == ["demo", person["id"]]
            assert len((await api.call("GET", "/v1/avatars", headers=bob))[1]["avatars"]) == 1
            for method, path in (("GET", where), ("GET", where + "/picture"), ("DELETE", where)):
                assert (await api.call(method, path, headers=bob))[0] == 404
            body = {"avatar": person["id"]}
            assert (await api.call("POST", "/v1/sessions", json=body, headers=bob))[0] == 404
            assert (await api.call("POST", "/v1/sessions", json=body, headers=ada))[0] == 201
            assert (await api.call("DELETE", where, headers=ada))[0] == 204

    run(go())


def test_tokens_are_asked_for_beyond_localhost_unless_told_otherwise():
    from visavis.server.security import Guard

    assert Guard(ServerConfig(host="0.0.0.0")).auth
    assert not Guard(ServerConfig()).auth
    assert not Guard(ServerConfig(host="0.0.0.0", auth=False)).auth
    one, two = (Guard(ServerConfig(secret="0123456789abcdef")) for _ in range(2))
    token = one.access_token("ada", frozenset({"sessions"}), 60)
    assert verify(two._secret, token).subject == "ada", "a secret of one's own outlives the server"


def test_floods_are_told_when_to_come_back():
    now = [0.0]
    limit = RateLimit(2.0, 5, lambda: now[0])
    for _ in range(5):
        limit.take("a")
    with pytest.raises(ApiError) as refused:
        limit.take("a")
    assert refused.value.status == 429 and refused.value.headers["Retry-After"] == "1"
    limit.take("b")
    now[0] = 1.0
    limit.take("a")
    limit.take("a")
    with pytest.raises(ApiError):
        limit.take("a")
    for k in range(MAX_CALLERS + 10):
        limit.take(f"c{k}")
    assert len(limit._buckets) == MAX_CALLERS

    async def go():
        async with serving(requests_per_s=5, sessions_per_minute=1) as api:
            answers = [await api.call("GET", "/healthz") for _ in range(40)]
            assert answers[0][0] == 200 and answers[-1][0] == 429
            assert answers[-1][1]["error"]["code"] == "too_many"
        async with serving(sessions_per_minute=2) as api:
            await api.ready()
            got = [(await api.call("POST", "/v1/sessions", json={"avatar": "demo"}))[0] for _ in range(3)]
            assert got == [201, 201, 429]

    run(go())


def test_turn_credentials_are_what_a_turn_server_expects():
    user, password = turn_credentials("s3cret", "ada", 60)
    expires, subject = user.split(":")
    assert subject == "ada" and 0 < int(expires) - time.time() <= 60
    assert base64.b64decode(password) == hmac.new(b"s3cret", user.encode(), hashlib.sha1).digest()
    config = ServerConfig(ice_servers=("stun:a", "turn:b"), turn_secret="s3cret")
    plain, turn = config.ice("x")
    assert plain == {"urls": "stun:a"} and turn["username"].endswith(":x") and turn["credential"]


def test_log_lines_are_objects_with_the_session_as_a_field():
    record = logging.LogRecord(
        "visavis.x", logging.INFO, "f", 1, "session ended session=%s reason=%s", ("s1", "x"), None
    )
    line = json.loads(JsonFormatter().format(record))
    assert line["session"] == "s1" and line["reason"] == "x" and line["event"] == "session ended"
    assert line["level"] == "info" and line["time"].endswith("Z")


def certificate(folder):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "cert.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(*pem))
    return folder / "cert.pem", folder / "key.pem"


def test_serve_over_tls_with_tokens_and_a_graceful_end(tmp_path, avatar):
    """The command as people run it: https beyond localhost, an address with a token, calls that end in peace."""
    cert, key = certificate(tmp_path)
    avatar.save(tmp_path / "demo.avatar")

    async def go():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "visavis.clients.cli", "serve", "--port", "0", "--host", "0.0.0.0",
            "--tls-cert", str(cert), "--tls-key", str(key), "--log", "json", "--drain", "30",
            "--no-demo", "--avatar", str(tmp_path / "demo.avatar"),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
            url, _, token = line.split()[3].partition("/#token=")
            url = url.replace("0.0.0.0", "localhost")
            assert url.startswith("https://") and token.count(".") == 2
            context = ssl.create_default_context(cafile=str(cert))
            context.check_hostname = False
            connector = aiohttp.TCPConnector(ssl=context)
            head = {"Authorization": f"Bearer {token}"}
            async with aiohttp.ClientSession(url, connector=connector) as http:
                assert (await http.get("/v1/avatars")).status == 401
                for _ in range(2000):
                    state = (await (await http.get("/v1/avatars", headers=head)).json())["avatars"][0]
                    if state["state"] == "ready":
                        break
                    await asyncio.sleep(0.1)
                answer = await http.post("/v1/sessions", json={"avatar": state["id"]}, headers=head)
                info = await answer.json()
                assert answer.status == 201, (info, state)
                own = {"Authorization": f"Bearer {info['token']}"}
                async with http.ws_connect(info["audio"], headers=own) as socket:
                    assert (await socket.receive_json())["type"] == "session.created"
                    process.send_signal(signal.SIGTERM)
                    while (await socket.receive_json())["type"] != "session.draining":
                        pass
                    assert (await http.get("/healthz")).status == 503
                    refused = await http.post("/v1/sessions", json={"avatar": state["id"]}, headers=head)
                    assert refused.status == 503 and (await refused.json())["error"]["code"] == "draining"
                    await http.delete(f"/v1/sessions/{info['id']}", headers=own)
            assert await asyncio.wait_for(process.wait(), 20) == 0
            lines = [
                json.loads(text)
                for text in (await process.stderr.read()).decode().splitlines()
                if text[0] == "{"
            ]
            assert info["id"] in [
                entry.get("session") for entry in lines if entry["event"] == "session ended"
            ]
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    run(go())

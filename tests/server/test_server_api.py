"""Every address: what it does, and one clear error for what it cannot use."""

from __future__ import annotations

import asyncio
import json
import pickle

import aiohttp
import cv2
import numpy as np
import pytest
from double import DoubleEngine, draw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import PAGE_FILES, run, serving

PNG = cv2.imencode(".png", draw(0.0))[1].tobytes()


def form(**fields):
    data = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        if isinstance(value, bytes):
            data.add_field(name, value, filename="p.png", content_type="image/png")
        else:
            data.add_field(name, value)
    return data


def refused(answer, status, code=None):
    got, body = answer
    assert got == status, body
    assert set(body) == {"error"} and set(body["error"]) == {"code", "message"}
    assert body["error"]["message"] and "Traceback" not in body["error"]["message"]
    if code:
        assert body["error"]["code"] == code
    return body["error"]["message"]


def test_the_page_and_its_files_are_served_with_a_strict_policy():
    async def go():
        async with serving() as api:
            for path in PAGE_FILES:
                async with api.http.get(api.url + path) as response:
                    body = await response.read()
                    assert response.status == 200 and body, path
                    assert response.headers["X-Content-Type-Options"] == "nosniff"
                    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
                    assert path == "/sample.wav" or b"https://" not in body, (
                        f"{path} asks for something outside"
                    )

    run(go())


def test_health_config_and_metrics():
    async def go():
        async with serving(max_sessions=3) as api:
            await api.session()
            assert (await api.call("GET", "/healthz"))[1] | {"version": ""} == {
                "status": "ok", "version": "", "sessions": 1, "room": 2,
            }  # fmt: skip
            assert (await api.call("GET", "/v1/config"))[1]["auth"] is False
            status, text = await api.call("GET", "/metrics")
            assert status == 200
            values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
            assert float(values["visavis_sessions"]) == 1
            assert float(values["visavis_enrollments_total"]) == 1
            assert 'visavis_step_seconds_bucket{le="+Inf"}' in values

    run(go())


def test_a_photo_is_enrolled_with_progress_and_its_consent():
    async def go():
        async with serving(DoubleEngine(enroll_s=0.4), demo=False) as api:
            status, person = await api.call(
                "POST", "/v1/avatars", data=form(photo=PNG, consent="mine", name="Ada")
            )
            assert status == 202 and person["state"] in ("waiting", "enrolling")
            refused(await api.call("GET", f"/v1/avatars/{person['id']}/picture"), 409, "not_ready")
            refused(await api.call("POST", "/v1/sessions", json={"avatar": person["id"]}), 409, "not_ready")
            seen = set()
            while person["state"] != "ready":
                _, person = await api.call("GET", f"/v1/avatars/{person['id']}")
                seen.add(person["progress"])
                await asyncio.sleep(0.02)
            assert len(seen) > 2 and person["name"] == "Ada" and person["width"] == 256
            assert pickle.loads(api.avatars.get(person["id"]).blob).consent == "mine"
            # others cannot find it, whoever knows the id can use it and have it forgotten
            assert (await api.call("GET", "/v1/avatars"))[1] == {"avatars": []}
            async with api.http.get(f"{api.url}/v1/avatars/{person['id']}/picture") as response:
                assert response.content_type == "image/jpeg"
                picture = cv2.imdecode(np.frombuffer(await response.read(), np.uint8), cv2.IMREAD_COLOR)
                assert picture.shape == (256, 256, 3)
            assert (await api.call("DELETE", f"/v1/avatars/{person['id']}"))[0] == 204
            refused(await api.call("GET", f"/v1/avatars/{person['id']}"), 404, "no_such_avatar")

    run(go())


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"photo": PNG}, 400, "consent_missing"),
        ({"photo": PNG, "consent": "   "}, 400, "consent_missing"),
        ({"consent": "yes"}, 400, "photo_missing"),
        ({"photo": b"", "consent": "yes"}, 400, "photo_missing"),
        ({"photo": PNG, "consent": "yes", "face": "two"}, 400, "bad_value"),
        ({"photo": PNG, "consent": "yes", "face": "0"}, 400, "bad_value"),
        ({"photo": PNG, "consent": "x" * 10_000}, 413, "too_large"),
        ({"photo": bytes(2_000_000), "consent": "yes"}, 413, "too_large"),
    ],
)
def test_a_form_that_cannot_be_used_is_refused(fields, status, code):
    async def go():
        async with serving(max_photo_bytes=1_000_000) as api:
            refused(await api.call("POST", "/v1/avatars", data=form(**fields)), status, code)

    run(go())


def test_a_body_that_is_no_form_is_refused():
    async def go():
        async with serving() as api:
            refused(await api.call("POST", "/v1/avatars", data=PNG), 415)
            for body in (
                b"",
                b"--x",
                b"--x\r\n\r\n",
                b"garbage" * 100,
                b"--x\r\nContent-Length: -1\r\n\r\nz\r\n--x--",
                b'--x\r\nContent-Disposition: form-data; name="a\x18b"\r\n\r\nz\r\n--x--',  # a 500 once
            ):
                refused(
                    await api.call(
                        "POST",
                        "/v1/avatars",
                        data=body,
                        headers={"Content-Type": "multipart/form-data; boundary=x"},
                    ),
                    400,
                )
            refused(
                await api.call(
                    "POST", "/v1/avatars", data=b"x", headers={"Content-Type": "multipart/form-data"}
                ),
                400,
            )

    run(go())


def test_a_photo_that_fails_says_why_and_shows_no_path():
    async def go():
        async with serving() as api:
            for photo, code in ((b"no picture at all", "not_a_picture"), (b"boom", "internal")):
                _, person = await api.call("POST", "/v1/avatars", data=form(photo=photo, consent="yes"))
                state = await api.ready(person["id"])
                assert state["state"] == "failed" and state["error"]["code"] == code
                assert "/secret" not in json.dumps(state)
                refused(await api.call("POST", "/v1/sessions", json={"avatar": person["id"]}), 422, code)

    run(go())


def test_enrolment_is_bounded():
    async def go():
        async with serving(DoubleEngine(enroll_s=1.0), demo=False, max_enrollments=2) as api:
            for _ in range(2):
                assert (await api.call("POST", "/v1/avatars", data=form(photo=PNG, consent="yes")))[0] == 202
            refused(await api.call("POST", "/v1/avatars", data=form(photo=PNG, consent="yes")), 503, "busy")

    run(go())


def test_the_person_unused_for_longest_makes_room():
    async def go():
        async with serving(demo=False, max_avatars=2) as api:
            ids = []
            for _ in range(3):
                _, person = await api.call("POST", "/v1/avatars", data=form(photo=PNG, consent="yes"))
                await api.ready(person["id"])
                ids.append(person["id"])
            refused(await api.call("GET", f"/v1/avatars/{ids[0]}"), 404)
            assert (await api.call("GET", f"/v1/avatars/{ids[2]}"))[0] == 200

    run(go())


def test_a_shared_person_stays():
    async def go():
        async with serving() as api:
            await api.ready()
            refused(await api.call("DELETE", "/v1/avatars/demo"), 403, "shared_avatar")

    run(go())


def test_sessions_open_with_their_own_token_only():
    async def go():
        async with serving() as api:
            (one, key), (two, _) = await api.session(), await api.session()
            path = f"/v1/sessions/{two['id']}"
            for method, where in (
                ("GET", path), ("DELETE", path), ("PATCH", path), ("POST", path + "/offer"), ("POST", path + "/clear"),
                ("POST", path + "/whep"), ("POST", path + "/whip"), ("GET", path + "/audio"),
                ("PATCH", path + "/whep/x"), ("DELETE", path + "/whip/x"),
            ):  # fmt: skip
                refused(await api.call(method, where), 401, "token_missing")
                refused(await api.call(method, where, headers=key), 401, "token_wrong")
            for header in (
                "Bearer",
                "Bearer  ",
                "Basic abc",
                "Bearer \u00e9",
                "bearer " + one["token"] + "x",
            ):
                refused(await api.call("GET", path, headers={"Authorization": header}), 401)
            assert (await api.call("GET", f"/v1/sessions/{one['id']}", headers=key))[1]["avatar"] == "demo"
            assert (await api.call("DELETE", f"/v1/sessions/{one['id']}", headers=key))[0] == 204
            refused(await api.call("GET", f"/v1/sessions/{one['id']}", headers=key), 404, "no_such_session")

    run(go())


def test_a_full_server_says_when_to_come_back():
    async def go():
        async with serving(max_sessions=1) as api:
            info, key = await api.session()
            async with api.http.post(f"{api.url}/v1/sessions", json={"avatar": "demo"}) as response:
                assert response.status == 503 and int(response.headers["Retry-After"]) > 0
            await api.call("DELETE", f"/v1/sessions/{info['id']}", headers=key)
            await api.session()

    run(go())


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"{}", b'{"avatar": 3}', b'{"avatar": "nobody"}', b'{"avatar": "demo", "seed": -1}',
     b'{"avatar": "demo", "seed": true}', b'{"avatar": "demo", "seed": 1e99}', b'{"avatar": "demo", "seed": 1.5}', b'{"avatar": "demo", "seed": NaN}',
     b'{"avatar": "demo", "lookahead": 9}',
     b"[" * 50_000, b'"' + b"x" * 70_000 + b'"', b"\xff\xfe\x00"],
)  # fmt: skip
def test_a_session_request_that_cannot_be_used_is_refused(body):
    async def go():
        async with serving() as api:
            await api.ready()
            status, answer = await api.call("POST", "/v1/sessions", data=body)
            assert 400 <= status < 500
            refused((status, answer), status)
            assert len(api.sessions) == 0

    run(go())


def test_offers_that_cannot_be_answered_leave_no_connection():
    async def go():
        async with serving() as api:
            info, key = await api.session()
            live = api.sessions.get(info["id"])
            bad = [
                "",
                "v=0",
                "v=0\r\n",
                "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n",
                "\x00" * 99,
                "v=0\r\n" + "m=video 9 x 1\r\n" * 50,
            ]
            for sdp in bad:
                refused(
                    await api.call("POST", info["offer"], json={"type": "offer", "sdp": sdp}, headers=key),
                    400,
                )
            for body in ({}, {"type": "answer", "sdp": "v=0"}, {"type": "offer", "sdp": 3}):
                refused(await api.call("POST", info["offer"], json=body, headers=key), 400)
            refused(await api.call("POST", info["offer"], data=b"x" * 400_000, headers=key), 413)
            for where in ("whep", "whip"):
                refused(await api.call("POST", info[where], data=b"v=0", headers=key), 415)
                for sdp in bad:
                    headers = key | {"Content-Type": "application/sdp"}
                    refused(await api.call("POST", info[where], data=sdp.encode(), headers=headers), 400)
            assert live.connections == {} and not live.publisher.watched

    run(go())


def test_mutated_offers_are_answered_or_refused_but_never_break_the_server():
    async def go():
        from aiortc import RTCConfiguration, RTCPeerConnection

        pc = RTCPeerConnection(RTCConfiguration([]))
        pc.addTransceiver("audio")
        pc.addTransceiver("video", direction="recvonly")
        await pc.setLocalDescription(await pc.createOffer())
        lines = pc.localDescription.sdp.splitlines()
        await pc.close()
        rng = np.random.default_rng(5)
        async with serving(max_viewers=1000) as api:
            info, key = await api.session()
            for _ in range(60):
                mutated = list(lines)
                for _ in range(int(rng.integers(1, 6))):
                    at = int(rng.integers(len(mutated)))
                    match int(rng.integers(4)):
                        case 0:
                            del mutated[at]
                        case 1:
                            mutated.insert(at, mutated[int(rng.integers(len(mutated)))])
                        case 2:
                            mutated[at] = mutated[at][: int(rng.integers(len(mutated[at]) + 1))]
                        case 3:
                            letters = list(mutated[at] or "x")
                            letters[int(rng.integers(len(letters)))] = chr(int(rng.integers(1, 300)))
                            mutated[at] = "".join(letters)
                sdp = "\r\n".join(mutated) + "\r\n"
                answer = await api.call(
                    "POST", info["offer"], json={"type": "offer", "sdp": sdp}, headers=key
                )
                assert answer[0] == 200 or refused(answer, 400)
            assert (await api.call("GET", "/healthz"))[0] == 200

    run(go())


def test_unknown_addresses_and_methods():
    async def go():
        async with serving() as api:
            refused(await api.call("GET", "/v1/nothing"), 404)
            refused(await api.call("GET", "/../etc/passwd"), 404)
            refused(await api.call("PUT", "/v1/avatars"), 405)
            info, key = await api.session()
            refused(await api.call("DELETE", info["whep"] + "/none", headers=key), 404)
            refused(await api.call("GET", info["audio"], headers=key), 400, "not_websocket")

    run(go())


def test_foreign_hosts_and_origins_are_refused():
    async def go():
        async with serving(allowed_hosts=("friend",), allowed_origins=("https://ok.example",)) as api:
            refused(await api.call("GET", "/v1/avatars", headers={"Host": "evil.example"}), 403, "host")
            assert (await api.call("GET", "/v1/avatars", headers={"Host": "friend:80"}))[0] == 200
            for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://["):
                refused(
                    await api.call("POST", "/v1/sessions", json={}, headers={"Origin": origin}), 403, "origin"
                )
            for origin in (api.url, "https://ok.example"):
                assert (await api.call("GET", "/v1/avatars", headers={"Origin": origin}))[0] == 200

    run(go())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


def test_any_json_is_answered():
    async def go(bodies):
        async with serving() as api:
            info, key = await api.session()
            for body in bodies:
                for path in ("/v1/sessions", info["offer"]):
                    status, answer = await api.call("POST", path, data=json.dumps(body).encode(), headers=key)
                    refused((status, answer), status)
                    assert 400 <= status < 500

    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.lists(JSON | st.dictionaries(st.sampled_from(["avatar", "seed", "sdp", "type"]), JSON), max_size=6)
    )
    def check(bodies):
        run(go(bodies))

    check()

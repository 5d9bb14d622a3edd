"""Trouble: garbage along the whole interface, hundreds of malformed offers, bad networks, floods, vanishing callers, long calls."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import re
import struct
import threading
from urllib.parse import quote

import aiohttp
import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from double import DoubleEngine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import PAGE_FILES, run, serving, settled
from visavis.benchmarks.relay import LossyRelay, through
from visavis.server.openapi import document

METHODS = ("get", "post", "put", "patch", "delete")
SAMPLES = {"string": "x", "integer": 1, "number": 0.5, "boolean": True, "object": {}, "array": []}


def operations():
    """(method, path, operation) of the whole document."""
    return [
        (method, path, item[method])
        for path, item in document()["paths"].items()
        for method in METHODS
        if method in item
    ]


def test_the_document_names_every_address_and_no_other():
    async def go():
        async with serving() as api:
            told = (await api.call("GET", "/openapi.json"))[1]
            assert told == json.loads(json.dumps(document()))
            served = set()
            for route in api.server.app.router.routes():
                info = route.resource.get_info()
                path = info.get("path") or info["formatter"].replace("{kind}", "{kind}")
                if route.method == "HEAD" or path in PAGE_FILES:
                    continue
                kinds = ("whep", "whip", "offer") if "{kind}" in path else ("",)
                for kind in kinds:
                    if not (kind == "offer" and route.method == "PATCH"):
                        served.add((route.method.lower(), path.replace("{kind}", kind)))
            assert served == {(method, path) for method, path, _ in operations()}

    run(go())


def test_every_reference_in_the_document_leads_somewhere():
    text = json.dumps(document())
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', text)):
        node = document()
        for part in reference.split("/"):
            node = node[part]
        assert node


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["avatar", "seed", "sdp", "type", "lookahead", "barge_in", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
PATH_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="/?#%\\"), min_size=1, max_size=12)


def test_garbage_along_the_interface_is_answered_as_documented():
    """Each operation with wrong and right tokens, odd names in its path, bodies of any JSON or bytes: an answer that the document
    lists, a JSON error where it is one, and never a fault of the server."""
    table = operations()

    async def go(cases):
        async with serving(requests_per_s=0, sessions_per_minute=0, enrollments_per_minute=0) as api:
            info, key = await api.session()
            for number, own, names, body, kind in cases:
                method, path, operation = table[number % len(table)]
                if "/audio" in path and own:
                    continue  # its messages are thrown at in test_server_ingest.py
                for k, name in enumerate(re.findall(r"{(\w+)}", path)):
                    value = info["id"] if name == "session" and own else names[k % len(names)]
                    path = path.replace("{" + name + "}", quote(value, safe=""))
                if path == f"/v1/sessions/{info['id']}" and method == "delete":
                    continue  # the session is needed again
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                headers = (key if own else {}) | ({"Content-Type": kind} if kind else {})
                status, answer = await api.call(method.upper(), path, data=data, headers=headers)
                allowed = set(operation["responses"]) | {"404"}  # an odd name may be another address
                assert str(status) in allowed and status < 500, (method, path, status, answer)
                if status >= 400:
                    assert set(answer) == {"error"} and set(answer["error"]) == {"code", "message"}
                    assert "Traceback" not in answer["error"]["message"]
            assert (await api.call("GET", "/healthz"))[0] == 200

    case = st.tuples(
        st.integers(0, 10_000),
        st.booleans(),
        st.lists(PATH_TEXT, min_size=2, max_size=2),
        ANY_JSON | st.binary(max_size=60),
        st.sampled_from(
            [
                "",
                "application/json",
                "application/sdp",
                "multipart/form-data; boundary=x",
                "application/trickle-ice-sdpfrag",
            ]
        ),
    )

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(case, min_size=30, max_size=30))
    def check(cases):
        run(go(cases))

    check()


async def offer_lines():
    pc = RTCPeerConnection(RTCConfiguration([]))
    pc.addTransceiver("audio")
    pc.addTransceiver("video", direction="recvonly")
    await pc.setLocalDescription(await pc.createOffer())
    lines = pc.localDescription.sdp.splitlines()
    await pc.close()
    return lines


def test_hundreds_of_malformed_offers_leave_nothing_behind():
    async def go():
        lines = await offer_lines()
        rng = np.random.default_rng(11)
        async with serving(requests_per_s=0, max_viewers=4) as api:
            info, key = await api.session()
            live = api.sessions.get(info["id"])
            for _ in range(200):
                mutated = [line for line in lines if rng.random() > 0.04]
                for _ in range(int(rng.integers(1, 8))):
                    at = int(rng.integers(len(mutated)))
                    letters = list(mutated[at]) or ["x"]
                    letters[int(rng.integers(len(letters)))] = chr(int(rng.integers(1, 0x2FF)))
                    mutated[at] = "".join(letters) * int(rng.choice([1, 1, 1, 40]))
                sdp = "\r\n".join(mutated) + "\r\n"
                body = {"type": "offer", "sdp": sdp}
                status, answer = await api.call("POST", info["offer"], json=body, headers=key)
                if status == 200:
                    path = f"{info['offer']}/{answer['connection']}"
                    assert (await api.call("DELETE", path, headers=key))[0] == 200
                else:
                    assert status == 400 and answer["error"]["message"], answer
            assert live.connections == {} and not live.publisher.watched
        assert await settled() == ([], [])

    run(go())


async def watch(api, info, key, relay=None):
    """A peer that watches and listens, over a bad network where a relay is given."""
    pc = RTCPeerConnection(RTCConfiguration([]))
    for kind in ("audio", "video"):
        pc.addTransceiver(kind, direction="recvonly")
    await pc.setLocalDescription(await pc.createOffer())
    body = {"type": "offer", "sdp": pc.localDescription.sdp}
    status, answer = await api.call("POST", info["offer"], json=body, headers=key)
    assert status == 200, answer
    sdp = answer["sdp"] if relay is None else await through(relay, answer["sdp"])
    await pc.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
    return pc


def tracks(pc):
    return {t.kind: t.receiver.track for t in pc.getTransceivers()}


@pytest.mark.parametrize(
    "trouble",
    [{"loss": 0.05}, {"loss": 0.1, "jitter_s": 0.03}, {"jitter_s": 0.2, "reorder": 0.1}, {"kbps": 400}],
    ids=["loss", "loss-and-jitter", "jitter-and-reorder", "narrow"],
)
def test_a_bad_network_does_not_end_the_picture(trouble):
    async def go():
        async with serving(DoubleEngine()) as api:
            info, key = await api.session()
            relay = LossyRelay(seed=3, **trouble)
            pc = await watch(api, info, key, relay)
            try:
                async with asyncio.timeout(60):
                    stamps = [(await tracks(pc)["video"].recv()).pts for _ in range(60)]
                    sound = [(await tracks(pc)["audio"].recv()).pts for _ in range(20)]
            finally:
                await pc.close()
                relay.close()
            assert relay.passed > 100 and (relay.dropped > 0 or "loss" not in trouble)
            # the picture goes on: what is shown has moved on by more frames than were waited for in vain
            steps = np.diff(stamps) / 3600
            assert steps.min() > 0 and np.median(steps) < 2.5
            assert np.all(np.diff(sound) > 0)
        assert await settled() == ([], [])

    run(go())


def test_a_flood_on_a_socket_costs_the_others_nothing():
    async def go():
        async with serving(messages_per_s=200) as api:
            quiet, quiet_key = await api.session()
            loud, loud_key = await api.session()
            pc = await watch(api, quiet, quiet_key)
            await tracks(pc)["video"].recv()
            live = api.sessions.get(quiet["id"])
            made = live.publisher.frames
            async with api.http.ws_connect(api.url + loud["audio"], headers=loud_key) as socket:

                async def flood():
                    with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                        for _ in range(20_000):
                            await socket.send_str('{"type": "input_audio_buffer.commit"}')

                task = asyncio.create_task(flood())
                async with asyncio.timeout(60):
                    while live.publisher.frames < made + 50:
                        await tracks(pc)["video"].recv()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                socket._response.connection.transport.abort()  # it would wait for its goodbye to be read
            commits = max(session.committed for session in api.engine.sessions)
            assert commits < 20_000
            await pc.close()

    run(go())


def test_callers_that_vanish_in_every_state_leave_nothing():
    async def go():
        async with serving(linger_s=0.3, requests_per_s=0, sessions_per_minute=0) as api:
            for k in range(6):
                info, key = await api.session()
                if k % 3 == 0:
                    socket = await api.http.ws_connect(api.url + info["audio"], headers=key)
                    await socket.send_bytes(bytes(3200))
                    socket._response.connection.transport.abort()
                elif k % 3 == 1:
                    pc = await watch(api, info, key)
                    await tracks(pc)["video"].recv()
                    await pc.close()
                # else: never connects
            async with asyncio.timeout(30):
                while len(api.sessions):
                    await asyncio.sleep(0.05)
            assert await settled(ended=False) == ([], [])

    run(go())


def test_garbage_datagrams_do_not_disturb_a_call():
    async def go():
        async with serving() as api:
            info, key = await api.session()
            pc = await watch(api, info, key)
            await tracks(pc)["video"].recv()
            live = api.sessions.get(info["id"])
            ports = {
                int(port)
                for viewer in live.connections.values()
                for port in re.findall(
                    r"^a=candidate:\S+ 1 udp \d+ \S+ (\d+)", viewer._pc.localDescription.sdp, re.M
                )
            }
            rng = np.random.default_rng(0)
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
            )
            for _ in range(300):
                head = bytes([int(rng.choice([0, 20, 22, 128, 200, 255]))])
                for port in ports:
                    transport.sendto(head + rng.bytes(int(rng.integers(0, 200))), ("127.0.0.1", port))
            transport.sendto(
                struct.pack("!HHI12s", 1, 0, 0x2112A442, b"x" * 12), ("127.0.0.1", next(iter(ports)))
            )
            async with asyncio.timeout(20):
                for _ in range(20):
                    await tracks(pc)["video"].recv()
            await pc.close()

    run(go())


def test_many_calls_one_after_another_leave_memory_handles_and_threads_as_they_were():
    """A compressed soak: what a call leaves behind would grow with their number."""

    async def one(api):
        info, key = await api.session()
        pc = await watch(api, info, key)
        async with api.http.ws_connect(api.url + info["audio"], headers=key) as socket:
            await socket.send_bytes(bytes(32000))
            for _ in range(3):
                await tracks(pc)["video"].recv()
        await pc.close()
        await api.call("DELETE", f"/v1/sessions/{info['id']}", headers=key)

    async def go():
        async with serving(requests_per_s=0, sessions_per_minute=0) as api:
            counts = []
            for _ in range(3):
                for _ in range(6):
                    await one(api)
                await asyncio.sleep(0.3)
                gc.collect()
                handles = len(os.listdir("/proc/self/fd"))
                objects = sum(
                    str(type(o).__module__).startswith(("visavis", "aiortc", "aioice"))
                    for o in gc.get_objects()
                )
                counts.append((handles, threading.active_count(), objects))
            (handles, threads, objects), (handles_2, threads_2, objects_2) = counts[1], counts[2]
            assert handles_2 <= handles + 2 and threads_2 <= threads + 1, counts
            assert objects_2 <= objects * 1.05 + 50, counts

    run(go())

"""Filming a call, barge-in by the caller's voice, what a call's way costs."""

from __future__ import annotations

import asyncio
import io

import av
import numpy as np
from double import opening
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import run, serving, settled, until
from visavis.clients.media import read_speech
from visavis.server.engines import VisavisEngine
from visavis.server.listener import Listener


def test_a_call_is_filmed_on_request():
    async def go():
        async with serving() as api:
            info, key = await api.session()
            path = f"/v1/sessions/{info['id']}/recording"
            assert (await api.call("DELETE", path, headers=key))[0] == 404
            async with api.http.ws_connect(api.url + info["audio"], headers=key) as socket:
                assert (await api.call("POST", path, headers=key))[0] == 201
                assert (await api.call("POST", path, headers=key))[0] == 409
                await socket.send_bytes(np.full(16000, 6000, "<i2").tobytes())
                live = api.sessions.get(info["id"])
                await until(lambda: live.recording.frames > 40)
                async with api.http.delete(api.url + path, headers=key) as response:
                    assert response.content_type == "video/mp4"
                    film = await response.read()
                assert live.recording is None
                # one that is still running when the session ends leaves nothing behind
                assert (await api.call("POST", path, headers=key))[0] == 201
        assert await settled() == ([], [])
        return film

    film = run(go())
    with av.open(io.BytesIO(film)) as movie:
        frames = [(frame.time, opening(frame.to_ndarray(format="rgb24"))) for frame in movie.decode(video=0)]
    with av.open(io.BytesIO(film)) as movie:
        blocks = [(f.time, f.to_ndarray()[0]) for f in movie.decode(audio=0)]
    times, mouths = np.array(frames).T
    assert len(frames) > 40 and np.allclose(np.round(np.diff(times) / 0.04), np.diff(times) / 0.04, atol=0.01)
    loud = np.array([t for t, block in blocks if np.abs(block).max() > 0.1])
    wide = times[mouths > 0.5]
    assert len(wide) > 15 and abs(loud.min() - wide.min()) < 0.09 and abs(loud.max() - wide.max()) < 0.12


def test_a_film_ends_at_its_limit():
    async def go():
        async with serving(max_recording_bytes=20_000) as api:
            info, key = await api.session()
            path = f"/v1/sessions/{info['id']}/recording"
            async with api.http.ws_connect(api.url + info["audio"], headers=key):
                await api.call("POST", path, headers=key)
                live = api.sessions.get(info["id"])
                await until(lambda: live.recording.full)
                async with api.http.delete(api.url + path, headers=key) as response:
                    film = await response.read()
        with av.open(io.BytesIO(film)) as movie:
            assert len(list(movie.decode(video=0))) > 2

    run(go())


def speech(seconds=1.0):
    pcm, rate = read_speech(VisavisEngine().sample_speech())
    return pcm[: int(seconds * rate)], rate


@settings(deadline=None, max_examples=20)
@given(st.integers(80, 4000), st.sampled_from([8000, 16000, 48000]))
def test_silence_and_noise_at_any_block_size_are_no_speech(block, rate):
    listener = Listener()
    noise = np.random.default_rng(0).integers(-3, 4, rate).astype(np.int16)
    found = [event for k in range(0, rate, block) for event in listener.push(noise[k : k + block], rate)]
    assert found == []


def test_speech_is_heard_within_its_first_syllable():
    pcm, rate = speech(2.0)
    listener = Listener()
    sound = np.concatenate([np.zeros(rate, np.int16), pcm, np.zeros(rate, np.int16)])
    found = [
        e for k in range(0, len(sound), rate // 50) for e in listener.push(sound[k : k + rate // 50], rate)
    ]
    kinds = [kind for kind, _ in found]
    assert kinds[0] == "started" and kinds[-1] == "stopped" and not listener.speaking
    onset = 1000 + 1000 * np.argmax(np.abs(pcm) > 1500) / rate
    assert abs(found[0][1] - onset) < 250


def test_the_callers_voice_stops_the_avatar():
    pcm, rate = speech()

    async def go():
        async with serving() as api:
            await api.ready()
            status, info = await api.call("POST", "/v1/sessions", json={"avatar": "demo", "barge_in": True})
            assert status == 201
            key = {"Authorization": f"Bearer {info['token']}"}
            live = api.sessions.get(info["id"])
            async with api.http.ws_connect(api.url + info["audio"], headers=key) as socket:
                await socket.send_bytes(np.full(16000 * 10, 3000, "<i2").tobytes())
                while (await socket.receive_json())["type"] != "playback.started":
                    pass
                for k in range(0, len(pcm), rate // 50):
                    live.push_live(pcm[k : k + rate // 50], rate)
                events = []
                while not events or events[-1]["type"] != "playback.finished":
                    events.append(await asyncio.wait_for(socket.receive_json(), 10))
            kinds = [event["type"] for event in events]
            assert "input_audio_buffer.speech_started" in kinds
            assert events[-1]["interrupted"] is True and events[-1]["position_ms"] < 5000
            assert api.metrics.barge_ins.value == 1
            assert (await api.call("POST", "/v1/sessions", json={"avatar": "demo", "barge_in": 1}))[0] == 400

    run(go())


def test_a_session_tells_where_its_time_goes():
    async def go():
        async with serving() as api:
            info, key = await api.session()
            async with api.http.ws_connect(api.url + info["audio"], headers=key):
                await until(lambda: api.sessions.get(info["id"]).publisher.frames > 5)
                state = (await api.call("GET", f"/v1/sessions/{info['id']}", headers=key))[1]
            assert {"wait", "engine", "convert", "link", "encode"} <= set(state["timings_ms"])
            assert all(np.isfinite(v) for v in state["timings_ms"].values()) and state["lookahead"] == 2

    run(go())


def test_a_peers_reports_become_figures():
    from types import SimpleNamespace

    from visavis.server.webrtc import Network

    network = Network()
    out = SimpleNamespace(type="outbound-rtp", bytesSent=1000, kind="video")
    back = SimpleNamespace(type="remote-inbound-rtp", roundTripTime=0.03, fractionLost=64, kind="video")
    network.take([out], 10.0)
    assert network.rtt_s is None and network.bitrate == 0
    out.bytesSent = 251_000
    network.take([out, back], 12.0)
    assert network.rtt_s == 0.03 and network.loss == 0.25 and network.bitrate == 1_000_000


def test_a_session_may_ask_for_less_quality_but_not_for_more():
    async def ask(api, **wish):
        await api.ready()
        assert (await api.call("POST", "/v1/sessions", json={"avatar": "demo", **wish}))[0] == 201

    async def go():
        async with serving() as api:
            await ask(api)
            await ask(api, generator=False)
            assert api.engine.generators == [True, False]
            assert (await api.call("POST", "/v1/sessions", json={"avatar": "demo", "generator": 2}))[0] == 400
        async with serving(generator=False) as api:
            await ask(api, generator=True)
            assert api.engine.generators == [False]

    run(go())

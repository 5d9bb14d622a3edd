"""Real calls over loopback: aiortc on both sides, no browser."""

from __future__ import annotations

import asyncio

import av
import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from double import opening
from serving import run, serving, settled
from visavis.clients.call import call
from visavis.clients.client import ClientError
from visavis.engine.motion.diffusion import Controls

RATE = 16000


def bursts(path, seconds=4.0):
    """A WAV with noise from 0.5 to 1.5 s and from 2.5 to 3.5 s."""
    t = np.arange(int(seconds * RATE)) / RATE
    loud = ((t % 2.0) >= 0.5) & ((t % 2.0) < 1.5)
    pcm = (np.random.default_rng(1).standard_normal(len(t)) * 6000 * loud).clip(-32768, 32767).astype("<i2")
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=RATE)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def watch(path):
    """A movie's mouth openings (T,) and the loudness (T,) of the sound that goes with each frame."""
    with av.open(str(path)) as movie:
        mouths = [opening(frame.to_ndarray(format="rgb24")) for frame in movie.decode(video=0)]
    with av.open(str(path)) as movie:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in movie.decode(audio=0)])
    sound = sound[: len(sound) // 1920 * 1920].reshape(-1, 1920)
    loudness = np.sqrt(np.mean(sound.astype(np.float64) ** 2, axis=1))
    n = min(len(mouths), len(loudness))
    return np.array(mouths[:n]), loudness[:n]


@pytest.mark.parametrize("ingest", ["microphone", "websocket"])
def test_the_mouth_moves_with_the_speech_and_the_sound(tmp_path, ingest):
    async def go():
        async with serving() as api:
            speech = bursts(tmp_path / "speech.wav")
            manner = {"mood": "serious", "expressiveness": 0.5}
            result = await call(
                api.url, speech, record=tmp_path / "out.mp4", ingest=ingest, seed=3, controls=manner
            )
            assert api.engine.sessions[0].controls == Controls(0.5, mood="serious")
            assert len(api.sessions) == 0, "the caller ended its session"
        assert await settled() == ([], [])
        return result

    result = run(go())
    assert result.frames > 40  # how steadily they come is `visavis bench latency`'s to say
    mouths, loudness = watch(tmp_path / "out.mp4")
    assert mouths.max() > 0.5 and np.percentile(mouths, 20) < 0.1
    # lag in frames at which mouth and sound agree best: they belong together
    mouths, loudness = mouths - mouths.mean(), loudness - loudness.mean()
    agree = {
        lag: float(np.dot(mouths[8 + lag : len(mouths) - 8 + lag], loudness[8:-8])) for lag in range(-8, 9)
    }
    assert abs(max(agree, key=agree.get)) <= 1, agree
    assert np.corrcoef(mouths[2:-2], loudness[2:-2])[0, 1] > 0.6


async def viewer(api, info, key, where="whep", kinds=("audio", "video"), **options):
    """A peer that watches; returns it with its tracks."""
    pc = RTCPeerConnection(RTCConfiguration([]))
    for kind in kinds:
        pc.addTransceiver(kind, direction="recvonly", **options)
    await pc.setLocalDescription(await pc.createOffer())
    headers = key | {"Content-Type": "application/sdp"}
    async with api.http.post(
        api.url + info[where], data=pc.localDescription.sdp, headers=headers
    ) as response:
        assert response.status == 201, await response.text()
        assert response.content_type == "application/sdp"
        location = response.headers["Location"]
        await pc.setRemoteDescription(RTCSessionDescription(await response.text(), "answer"))
    return pc, location


async def frames(pc, n):
    track = next(t.receiver.track for t in pc.getTransceivers() if t.kind == "video")
    async with asyncio.timeout(10):
        return [await track.recv() for _ in range(n)]


def test_whep_several_watch_one_session_and_leave_one_by_one():
    async def go():
        async with serving() as api:
            info, key = await api.session()
            one, where = await viewer(api, info, key)
            two, _ = await viewer(api, info, key, kinds=("video",))
            await asyncio.gather(frames(one, 5), frames(two, 5))
            live = api.sessions.get(info["id"])
            assert len(live.connections) == 2
            fragment = "a=mid:0\r\na=candidate:1 1 udp 1 127.0.0.1 9 typ host\r\na=end-of-candidates\r\n"
            headers = key | {"Content-Type": "application/trickle-ice-sdpfrag"}
            assert (await api.call("PATCH", where, data=fragment, headers=headers))[0] == 204
            assert (await api.call("PATCH", where, data="a=candidate:x", headers=headers))[0] == 400
            assert (await api.call("DELETE", where, headers=key))[0] == 200
            await frames(two, 5)
            assert len(live.connections) == 1
            await asyncio.gather(one.close(), two.close())
        assert await settled() == ([], [])

    run(go())


def test_a_caller_that_lost_its_connection_meets_the_same_session_again():
    async def go():
        async with serving(linger_s=20) as api:
            info, key = await api.session()
            live, engine = api.sessions.get(info["id"]), api.engine.sessions[-1]
            first, _ = await viewer(api, info, key)
            await frames(first, 5)
            await live.push_audio(np.full(16_000 * 8, 6000, np.int16), RATE)
            await first.close()
            async with asyncio.timeout(15):
                while live.connections:
                    await asyncio.sleep(0.05)
            said, waiting = engine.speech, engine.queued_seconds
            assert waiting > 1, "what was not said yet waits for the caller"
            again, _ = await viewer(api, info, key)
            pictures = [opening(f.to_ndarray(format="rgb24")) for f in await frames(again, 10)]
            assert max(pictures) > 0.5, "the speech goes on"
            assert api.sessions.get(info["id"]) is live and engine.speech > said
            assert engine.queued_seconds < waiting and len(api.engine.sessions) == 1
            await again.close()
        assert await settled() == ([], [])

    run(go())


def test_whip_speech_is_heard_by_who_watches(tmp_path):
    from visavis.clients.call import SpeechTrack
    from visavis.clients.media import read_speech

    async def go():
        async with serving() as api:
            info, key = await api.session()
            watching, _ = await viewer(api, info, key, kinds=("video",))
            microphone = SpeechTrack(*read_speech(bursts(tmp_path / "speech.wav")))
            speaking = RTCPeerConnection(RTCConfiguration([]))
            speaking.addTrack(microphone)
            await speaking.setLocalDescription(await speaking.createOffer())
            headers = key | {"Content-Type": "application/sdp"}
            status, answer = await api.call(
                "POST", info["whip"], data=speaking.localDescription.sdp, headers=headers
            )
            assert status == 201
            await speaking.setRemoteDescription(RTCSessionDescription(answer, "answer"))
            microphone.begin()
            mouths = [opening(f.to_ndarray(format="rgb24")) for f in await frames(watching, 75)]
            assert max(mouths) > 0.5 and min(mouths) < 0.1
            await asyncio.gather(watching.close(), speaking.close())
        assert await settled() == ([], [])

    run(go())


def test_a_hidden_address_is_replaced_by_the_one_that_asked():
    from visavis.server.webrtc import resolve_mdns

    line = "a=candidate:1 1 udp 2113937151 0ab-12.local 54321 typ host generation 0\r\n"
    assert " 10.0.0.9 54321 typ host" in resolve_mdns(line, "10.0.0.9")
    plain = line.replace("0ab-12.local", "192.0.2.7")
    assert resolve_mdns(plain, "10.0.0.9") == plain


def test_a_peer_that_vanishes_is_let_go():
    async def go():
        async with serving(linger_s=0.5) as api:
            info, key = await api.session()
            pc, _ = await viewer(api, info, key)
            await frames(pc, 3)
            await pc.close()  # says goodbye over DTLS, not over HTTP
            for _ in range(100):
                if len(api.sessions) == 0:
                    break
                await asyncio.sleep(0.05)
            assert len(api.sessions) == 0
            assert await settled(ended=False) == ([], [])

    run(go())


def test_a_peer_that_never_comes_is_given_up(monkeypatch):
    monkeypatch.setattr("visavis.server.webrtc.CONNECT_S", 0.5)

    async def go():
        async with serving(linger_s=0.4) as api:
            info, key = await api.session()
            pc = RTCPeerConnection(RTCConfiguration([]))
            pc.addTransceiver("video", direction="recvonly")
            await pc.setLocalDescription(await pc.createOffer())
            offer = {"type": "offer", "sdp": pc.localDescription.sdp}
            assert (await api.call("POST", info["offer"], json=offer, headers=key))[0] == 200
            await pc.close()
            await asyncio.sleep(2.0)
            assert len(api.sessions) == 0
            assert await settled(ended=False) == ([], [])

    run(go())


def test_the_connections_of_a_session_are_bounded():
    async def go():
        async with serving(max_viewers=1) as api:
            info, key = await api.session()
            pc, _ = await viewer(api, info, key, kinds=("video",))
            status, body = await api.call(
                "POST", info["whep"], data="v=0", headers=key | {"Content-Type": "application/sdp"}
            )
            assert status == 503 and body["error"]["code"] == "busy"
            await pc.close()

    run(go())


def test_the_server_ending_ends_the_peers_tracks():
    async def go():
        async with serving() as api:
            info, key = await api.session()
            pc, _ = await viewer(api, info, key)
            await frames(pc, 3)
            await api.call("DELETE", f"/v1/sessions/{info['id']}", headers=key)
            with pytest.raises(MediaStreamError):
                await frames(pc, 300)
            await pc.close()
        assert await settled() == ([], [])

    run(go())


def test_a_caller_hears_why_it_cannot_call(tmp_path):
    speech = bursts(tmp_path / "speech.wav", 1.0)

    async def go():
        with pytest.raises(ClientError, match="cannot reach"):
            await call("http://127.0.0.1:9", speech)
        with pytest.raises(ClientError, match="no server address"):
            await call("ftp://x", speech)
        async with serving(demo=False) as api:
            with pytest.raises(ClientError, match="offers nobody"):
                await call(api.url, speech)
            with pytest.raises(ClientError, match="no such avatar"):
                await call(api.url, speech, avatar="x")
            with pytest.raises(ClientError, match="no visavis server"):
                await call(api.url + "/style.css?", speech)

    run(go())

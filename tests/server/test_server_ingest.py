"""Speech over the WebSocket: the parser under garbage, the protocol end to end."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import asdict

import aiohttp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import run, serving
from visavis.engine.motion.diffusion import Controls
from visavis.server.ingest import Append, Clear, Commit, Configure, MessageError, parse_binary, parse_text


@given(st.binary(max_size=400))
def test_binary_messages_are_samples_or_refused(data):
    if len(data) % 2:
        with pytest.raises(MessageError):
            parse_binary(data)
    else:
        assert parse_binary(data).pcm.astype("<i2").tobytes() == data


@given(st.text(max_size=300) | st.binary(max_size=100).map(lambda b: b.decode("latin-1")))
def test_any_text_is_a_command_or_one_error(text):
    try:
        assert isinstance(parse_text(text), Append | Configure | Commit | Clear)
    except MessageError as error:
        assert str(error) and len(str(error)) < 300


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.lists(st.integers(), max_size=3)
)


@given(
    st.sampled_from(["session.update", "input_audio_buffer.append", "input_audio_buffer.commit", "x", None]),
    st.dictionaries(st.sampled_from(["rate", "live", "audio", "session", "controls"]), VALUES, max_size=4),
)
def test_messages_with_wrong_values_are_refused(kind, fields):
    message = {"type": kind, **fields} if kind else fields
    try:
        command = parse_text(json.dumps(message))
    except MessageError:
        return
    if isinstance(command, Configure):
        assert command.rate is None or 8000 <= command.rate <= 48000
        assert command.live is None or isinstance(command.live, bool)
        Controls(**command.controls)


@given(st.lists(st.integers(-32768, 32767), max_size=50))
def test_base64_carries_the_samples(samples):
    pcm = np.array(samples, "<i2")
    text = json.dumps(
        {"type": "input_audio_buffer.append", "audio": base64.b64encode(pcm.tobytes()).decode()}
    )
    assert parse_text(text).pcm.tolist() == samples


def test_the_first_message_names_the_rate():
    assert parse_text('{"rate": 24000}') == Configure(24000)
    assert parse_text('{"type": "session.update", "session": {"rate": 48000, "live": true}}') == Configure(
        48000, True
    )
    for bad in (
        '{"rate": 7999}',
        '{"rate": "24000"}',
        '{"rate": true}',
        '{"rate": 24000.5}',
        '{"type": "session.update", "session": 3}',
    ):
        with pytest.raises(MessageError):
            parse_text(bad)
    with pytest.raises(MessageError, match="not JSON"):
        parse_text("[" * 100_000)


async def connect(api):
    info, key = await api.session()
    socket = await api.http.ws_connect(api.url + info["audio"], headers=key, protocols=("visavis",))
    assert (await socket.receive_json())["type"] == "session.created"
    return info, key, socket


async def until(socket, kind, timeout=5.0):
    """The first event of a kind, and all events up to it."""
    seen = []
    async with asyncio.timeout(timeout):
        while True:
            seen.append(await socket.receive_json())
            if seen[-1]["type"] == kind:
                return seen[-1], seen


def test_a_burst_is_played_at_the_clock_and_events_tell():
    async def go():
        async with serving() as api:
            _, _, socket = await connect(api)
            await socket.send_json({"type": "session.update", "session": {"rate": 24000}})
            assert (await until(socket, "session.updated"))[0]["session"] == {
                "rate": 24000, "live": False, "controls": asdict(Controls()) | {"gaze": [0, 0]},
            }  # fmt: skip
            loop = asyncio.get_running_loop()
            await socket.send_bytes(np.full(24000, 3000, "<i2").tobytes())  # one second at once
            await until(socket, "playback.started")
            began = loop.time()
            finished, _ = await until(socket, "playback.finished")
            assert finished["position_ms"] == 1000 and finished["interrupted"] is False
            assert loop.time() - began > 0.8, "it was not played at the clock"

    run(go())


def test_barge_in_drops_the_queue_and_says_where_it_stopped():
    async def go():
        async with serving() as api:
            _, _, socket = await connect(api)
            await socket.send_bytes(np.full(16000 * 10, 3000, "<i2").tobytes())
            await until(socket, "playback.started")
            await asyncio.sleep(0.3)
            await socket.send_json({"type": "input_audio_buffer.clear"})
            events = {}
            while not {"playback.finished", "input_audio_buffer.cleared"} <= set(events):
                event = await asyncio.wait_for(socket.receive_json(), 10)
                events[event["type"]] = event
            finished, cleared = events["playback.finished"], events["input_audio_buffer.cleared"]
            assert finished["interrupted"] is True and finished["position_ms"] >= 40
            # what was on its way when it was cleared was neither played nor dropped from the queue
            assert 0 <= 10_000 - cleared["dropped_ms"] - finished["position_ms"] <= 1000
            # the next utterance is not an interrupted one
            await socket.send_bytes(np.full(3200, 3000, "<i2").tobytes())
            assert (await until(socket, "playback.finished"))[0] == {
                "type": "playback.finished", "position_ms": 200, "interrupted": False,
            }  # fmt: skip

    run(go())


def test_a_full_queue_takes_nothing_and_says_so():
    async def go():
        async with serving(max_queue_s=2.0) as api:
            _, _, socket = await connect(api)
            await socket.send_bytes(bytes(2 * 16000 * 3))
            error, _ = await until(socket, "error")
            assert error["error"]["code"] == "queue_full"
            assert api.engine.sessions[0].queued_seconds == 0
            await socket.send_bytes(np.full(1600, 3000, "<i2").tobytes())
            await until(socket, "playback.finished")

    run(go())


def test_commit_reaches_the_engine():
    async def go():
        async with serving() as api:
            _, _, socket = await connect(api)
            await socket.send_json({"type": "input_audio_buffer.commit"})
            await until(socket, "input_audio_buffer.committed")
            assert api.engine.sessions[0].committed == 1

    run(go())


def test_garbage_is_answered_with_errors_and_then_the_door():
    async def go():
        async with serving() as api:
            _, _, socket = await connect(api)
            await socket.send_bytes(b"odd")
            assert (await until(socket, "error"))[0]["error"]["code"] == "odd_length"
            await socket.send_str('{"type": "input_audio_buffer.append", "audio": "%%%"}')
            assert (await until(socket, "error"))[0]["error"]["code"] == "not_base64"
            for _ in range(30):
                await socket.send_str("{")
            async with asyncio.timeout(5):
                while (await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                    pass
            assert socket.close_code == 1008

    run(go())


def test_a_message_beyond_the_limit_closes_the_socket():
    async def go():
        async with serving(max_message_bytes=10_000) as api:
            _, _, socket = await connect(api)
            await socket.send_bytes(bytes(20_000))
            async with asyncio.timeout(5):
                while (await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                    pass
            assert socket.close_code == 1009

    run(go())


def test_browsers_bring_their_token_as_a_subprotocol():
    async def go():
        async with serving() as api:
            info, _ = await api.session()
            protocols = ("visavis", "bearer." + info["token"])
            async with api.http.ws_connect(api.url + info["audio"], protocols=protocols) as socket:
                assert socket.protocol == "visavis"
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await api.http.ws_connect(api.url + info["audio"], protocols=("visavis", "bearer.wrong"))
            assert refused.value.status == 401

    run(go())


def test_ending_the_session_closes_its_sockets():
    async def go():
        async with serving() as api:
            info, key, socket = await connect(api)
            assert (await api.call("DELETE", f"/v1/sessions/{info['id']}", headers=key))[0] == 204
            async with asyncio.timeout(5):
                while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                    assert json.loads(message.data)["type"] in ("session.closed", "playback.finished")
            assert socket.closed

    run(go())


def test_a_sender_far_ahead_of_the_clock_is_told_how_far():
    async def go():
        async with serving(max_queue_s=20.0) as api:
            _, _, socket = await connect(api)
            for _ in range(4):
                await socket.send_bytes(bytes(2 * 16000 * 3))
            told, _ = await until(socket, "input_audio_buffer.queued")
            assert 2000 < told["queued_ms"] <= 20_000 and told["limit_ms"] == 20_000

    run(go())

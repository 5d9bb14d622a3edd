"""Workers: in processes of their own, dying and coming back, one stalled session among others, room by measurement."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from double import CRASH_SEED, SLOW_SEED, DoubleEngine, mood_of
from hypothesis import given
from hypothesis import strategies as st
from serving import events_of, run, serving, settled, until
from visavis.server.config import ServerConfig
from visavis.server.errors import ApiError
from visavis.server.link import Link, LinkClosed, pair
from visavis.server.metrics import Metrics
from visavis.server.routes import WORKERS
from visavis.server.worker_handle import Load, WorkerHandle
from visavis.server.workers import WorkerPool


@pytest.fixture
def processes(monkeypatch):
    """Settings of a server whose workers are processes with the double engine."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return {"workers": 2, "engine_factory": "double:DoubleEngine"}


def test_messages_cross_a_link_whole():
    ours, theirs = pair()
    theirs = Link(theirs)
    frame = np.arange(3000, dtype=np.int16)
    ours.send({"op": "pair", "n": 1}, frame, b"tail")
    ours.send({"op": "beat"})
    header, payload = theirs.receive()
    assert header == {"op": "pair", "n": 1} and bytes(payload) == frame.tobytes() + b"tail"
    assert theirs.receive() == ({"op": "beat"}, memoryview(b""))
    ours.close()
    with pytest.raises(LinkClosed):
        theirs.receive()
    theirs.close()
    with pytest.raises(LinkClosed):
        theirs.send({"op": "x"})


@given(st.binary(min_size=8, max_size=200))
def test_garbage_on_a_link_is_the_end_of_it(data):
    ours, theirs = pair()
    theirs.sendall(b"\xff" + data)
    theirs.close()
    with pytest.raises((LinkClosed, ValueError)):
        ours.receive()
    ours.close()


def test_a_worker_that_is_killed_ends_its_sessions_and_comes_back(processes):
    async def go():
        async with serving(**processes, linger_s=30) as api:
            pool = api.server.app[WORKERS]
            one, two = await events_of(api, 0), await events_of(api, 1)
            first, second = (api.sessions.get(s[0]["id"]) for s in (one, two))
            assert first.worker is not second.worker, "sessions are spread"
            await until(lambda: first.publisher.frames > 3 and second.publisher.frames > 3)
            os.kill(first.worker.process.pid, signal.SIGKILL)
            await asyncio.wait_for(one[3], 10)  # the server closes the socket
            assert [e["error"]["code"] for e in one[2] if e["type"] == "error"] == ["worker_lost"]
            assert one[2][-1]["type"] == "session.closed"
            key = {"Authorization": f"Bearer {one[0]['token']}"}
            assert (await api.call("GET", f"/v1/sessions/{one[0]['id']}", headers=key))[0] == 404
            made = second.publisher.frames
            await until(lambda: second.publisher.frames > made + 10)
            assert [e for e in two[2] if e["type"] == "error"] == [], "the other worker's session goes on"
            await until(lambda: all(not worker.lost for worker in pool.workers))
            three, four = await events_of(api, 2), await events_of(api, 3)
            for info, socket, *_ in (three, four):
                live = api.sessions.get(info["id"])
                await until(lambda live=live: live.publisher.frames > 3)
                await socket.close()
            assert api.metrics.worker_deaths.value == 1
        assert await settled() == ([], [])

    run(go())


def test_a_session_that_takes_its_process_along_is_told_too(processes):
    async def go():
        async with serving(**(processes | {"workers": 1})) as api:
            _, _, events, reader = await events_of(api, CRASH_SEED)
            await asyncio.wait_for(reader, 20)
            assert "worker_lost" in [e.get("error", {}).get("code") for e in events]
            assert len(api.sessions) == 0
            pool = api.server.app[WORKERS]
            await until(lambda: all(not worker.lost for worker in pool.workers))
            status, body = await api.call("POST", "/v1/sessions", json={"avatar": "demo"})
            assert status == 201, body

    run(go())


def test_a_manner_reaches_the_process_that_makes_the_frames(processes):
    async def go():
        async with serving(**processes) as api:
            await api.ready()
            wanted = {"avatar": "demo", "controls": {"mood": "warm", "head_motion": 0.5}}
            status, info = await api.call("POST", "/v1/sessions", json=wanted)
            assert status == 201, info
            key, path = {"Authorization": f"Bearer {info['token']}"}, f"/v1/sessions/{info['id']}"
            live = api.sessions.get(info["id"])
            subscription = live.publisher.subscribe()
            socket = await api.http.ws_connect(api.url + info["audio"], headers=key)

            async def shown():
                return mood_of((await asyncio.wait_for(subscription.next_frame(), 20)).i420)

            assert await shown() == "warm", "the first frame is of the manner that was asked for"
            status, told = await api.call("PATCH", path, json={"mood": "serious"}, headers=key)
            assert status == 200 and (told["mood"], told["head_motion"]) == ("serious", 0.5)
            async with asyncio.timeout(20):
                while await shown() != "serious":  # what was made before it
                    pass
            assert [await shown() for _ in range(5)] == ["serious"] * 5
            assert (await api.call("GET", path, headers=key))[1]["controls"] == told
            await socket.close()
        assert await settled() == ([], [])

    run(go())


def test_photos_are_prepared_in_a_process_of_their_own(processes):
    async def go():
        async with serving(**processes) as api:
            assert (await api.ready())["state"] == "ready"
            pool = api.server.app[WORKERS]
            pids = {worker.process.pid for worker in pool.workers}
            assert pool._enroller is not None and pool._enroller.process.pid not in pids
            assert os.getpriority(os.PRIO_PROCESS, pool._enroller.process.pid) >= min(
                19, 10 + os.getpriority(os.PRIO_PROCESS, 0)
            )
        assert await settled() == ([], [])

    run(go())


def test_a_session_that_stalls_hurts_nobody():
    async def go():
        async with serving(DoubleEngine()) as api:
            slow, quick = await events_of(api, SLOW_SEED), await events_of(api, 0)
            slow_live, quick_live = (api.sessions.get(s[0]["id"]) for s in (slow, quick))
            subscription = quick_live.publisher.subscribe()
            first = await asyncio.wait_for(subscription.next_frame(), 10)
            before = slow_live.publisher.frames
            stamps = [(await asyncio.wait_for(subscription.next_frame(), 10)).stamp for _ in range(40)]
            made = slow_live.publisher.frames - before
            assert 0 < made < 0.5 * (stamps[-1] - first.stamp), "the slow one makes what it can"
            assert len(stamps) > 5 * made, "and the quick one does not wait for it"

    run(go())


def test_barge_in_silences_what_was_made_before_it():
    async def go():
        async with serving(DoubleEngine()) as api:
            info, socket, events, _ = await events_of(api, 0)
            live = api.sessions.get(info["id"])
            subscription = live.publisher.subscribe()
            await socket.send_bytes(np.full(16000 * 5, 3000, "<i2").tobytes())
            while not (await asyncio.wait_for(subscription.next_sound(), 10)).speech:
                pass
            await until(lambda: subscription.sounds, 10)
            await live.clear()
            late = [await asyncio.wait_for(subscription.next_sound(), 10) for _ in range(8)]
            assert not any(pair.speech or np.abs(pair.audio).max() for pair in late)
            assert live.generation == 1
            await until(lambda: [e for e in events if e["type"] == "playback.finished"])
            assert next(e for e in events if e["type"] == "playback.finished")["interrupted"] is True

    run(go())


def pool_of(loads, **settings):
    """A pool of workers that are up, with measured loads; nothing runs."""
    pool = WorkerPool(ServerConfig(workers=1, **settings), DoubleEngine(), Metrics())
    for k, (cost, missed, sessions) in enumerate(loads):
        ours, _ = pair()
        worker = WorkerHandle(f"w{k}", ours, load=Load(cpu_per_frame=cost, missed_share=missed))
        worker.sessions = {f"s{k}-{n}": lambda *_: None for n in range(sessions)}
        pool.workers.append(worker)
    return pool


def test_room_is_what_the_measured_cost_of_a_frame_leaves(monkeypatch):
    monkeypatch.setattr("visavis.server.workers.cores", lambda: 2)

    async def go():
        # 72 ms of two cores' 80 ms a tick: frames of 8 ms and 4 ms of encoding fit six times
        assert pool_of([(0.008, 0, 0)], max_sessions=100).room() == 6
        assert pool_of([(0.008, 0, 5)], max_sessions=100).room() == 1
        assert pool_of([(0.008, 0, 0)], max_sessions=2).room() == 2
        assert pool_of([(0.5, 0, 0)]).room() == 1, "one is always tried"
        assert pool_of([(0.5, 0, 1)]).room() == 0
        assert pool_of([(0.008, 0.2, 2)]).room() == 0, "frames are late already"
        full = pool_of([(0.05, 0, 1)])
        with pytest.raises(ApiError) as refused:
            full.pick()
        assert refused.value.status == 503 and int(refused.value.headers["Retry-After"]) > 0
        spread = pool_of([(0.001, 0, 2), (0.001, 0, 1)])
        assert spread.pick().name == "w1"
        for worker in spread.workers:
            worker.lost = True
        with pytest.raises(ApiError, match="started again"):
            spread.pick()

    run(go())


def test_load_follows_the_heartbeats():
    load = Load()
    load.opened(0.02)
    assert load.cpu_per_frame == 0.02
    beat = {"cpu_s": 0.0, "frames": 0, "missed": 0, "watched": 1}
    for k in range(1, 40):
        load.beat(beat | {"cpu_s": 0.25 * k, "frames": 25 * k, "missed": 0})
    assert abs(load.cpu_per_frame - 0.01) < 1e-3 and load.missed_share == 0
    for k in range(40, 60):
        load.beat(beat | {"cpu_s": 0.25 * k, "frames": 25 * k, "missed": 25 * (k - 39)})
    assert abs(load.missed_share - 0.5) < 0.05
    for _ in range(20):
        load.beat(load._last)
    assert load.missed_share < 1e-3, "nobody there: it is forgotten"

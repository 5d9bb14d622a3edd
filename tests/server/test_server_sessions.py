"""The session's clock and what keeps it alive; nothing runs on once it has ended."""

from __future__ import annotations

import asyncio
import itertools
import pickle
import threading

import numpy as np
from double import DoubleAvatar, DoubleEngine
from serving import run, serving, settled
from visavis.server.avatars import Entry
from visavis.server.governor import Governor, Quality
from visavis.server.metrics import Metrics
from visavis.server.publisher import FRAME_S
from visavis.server.sessions import LiveSession, Playback
from visavis.server.worker_handle import start_thread


class Watcher:
    """A connection that only keeps the session in use."""

    def __init__(self, session):
        self.session = session
        self.closed = False
        session.attach("watcher", self)

    async def close(self):
        self.closed = True
        self.session.detach("watcher")


async def live(engine=None):
    engine = engine or DoubleEngine()
    worker = start_thread(engine, "test")
    await worker.start()
    session = LiveSession("x" * 16, "demo", worker, Metrics())
    await session.open(person(), seed=0, lookahead=0, max_queue_s=9.0)
    return session, engine.sessions[-1]


def person():
    return Entry("demo", "Demo", True, key="demo-1", blob=pickle.dumps(DoubleAvatar()))


async def end(session):
    await session.close()
    await session.worker.close()


async def take(subscription, n):
    return [await asyncio.wait_for(subscription.next_frame(), 5) for _ in range(n)]


def test_pairs_are_stamped_by_one_count_at_25_a_second():
    async def go():
        session, _ = await live()
        subscription = session.publisher.subscribe()
        Watcher(session)
        pairs = await take(subscription, 20)
        stamps = [pair.stamp for pair in pairs]
        assert stamps == list(range(stamps[0], stamps[0] + 20))
        for pair in pairs:
            assert abs(pair.due - (session.publisher.anchor + pair.stamp * FRAME_S)) < 1e-6
            assert pair.i420.shape == (384, 256) and pair.audio.shape == (1920,)
            units = pair.stamp - subscription.origin
            assert subscription.video_capture_time(units * 3600) == subscription.audio_capture_time(
                units * 1920
            )
        await end(session)

    run(go())


def test_the_engine_runs_in_threads_that_are_not_the_loops_one_step_at_a_time():
    async def go():
        session, engine = await live()
        Watcher(session)
        await take(session.publisher.subscribe(), 5)
        assert engine.threads and threading.get_ident() not in engine.threads
        assert engine.overlaps == 0
        await end(session)

    run(go())


def test_a_stall_is_skipped_over_not_caught_up():
    async def go():
        session, engine = await live()
        subscription = session.publisher.subscribe()
        Watcher(session)
        before = (await take(subscription, 3))[-1]
        engine.step_s = 0.6
        await asyncio.sleep(0.1)
        engine.step_s = 0.0
        after = await take(subscription, 12)
        jumps = np.diff([before.stamp, *(pair.stamp for pair in after)])
        assert jumps.max() >= 10, jumps  # the stamps jumped with the clock
        assert sorted(jumps)[-2] <= 2, jumps  # and went on one by one
        late = asyncio.get_running_loop().time() - after[-1].due
        assert late < 0.3, "the clock is behind real time after the stall"
        await end(session)

    run(go())


def test_frames_made_in_time_but_handed_out_late_take_the_video_network_out_too(monkeypatch):
    async def go() -> bool:
        session, engine = await live(DoubleEngine(network_s=0.002))
        subscription = session.publisher.subscribe()
        Watcher(session)
        await take(subscription, 25)
        await end(session)
        return engine.reduced

    assert not run(go())
    monkeypatch.setattr("visavis.server.sessions.FRAME_S", 1e-6)  # every frame is late when it arrives
    assert run(go())


def test_a_video_network_that_makes_frames_late_is_taken_out():
    async def go():
        session, engine = await live(DoubleEngine(network_s=0.06))
        subscription = session.publisher.subscribe()
        Watcher(session)
        assert not engine.reduced
        await take(subscription, 25)
        assert engine.reduced and session.reduced
        before = (await take(subscription, 1))[0]
        after = (await take(subscription, 20))[-1]
        assert after.stamp - before.stamp <= 22, "frames come in time again"
        await end(session)

    run(go())


def frames(governor, seconds, took_s, now):
    """Let a call go on; returns when."""
    for k in range(round(25 * seconds)):
        governor.frame(took_s(k), now + k / 25)
    return now + seconds


def test_single_late_frames_change_nothing_but_a_run_of_them_does():
    governor = Governor()
    now = frames(governor, 60, lambda k: 0.2 if k % 25 == 0 else 0.02, 0.0)
    assert governor.quality is Quality.FULL
    frames(governor, 0.4, lambda k: 0.035, now)
    assert governor.quality is Quality.WARP


def test_full_quality_is_tried_again_after_longer_and_longer_rests():
    governor, now, changes = Governor(), 0.0, []
    for _ in range(25 * 600):
        before = governor.quality
        governor.frame(0.02 if before else 0.1, now)
        if governor.quality != before:
            changes.append((now, governor.quality))
        now += 1 / 25
    rests = [b[0] - a[0] for a, b in itertools.pairwise(changes) if a[1]]
    assert np.allclose(rests[:4], [10, 20, 40, 80], atol=0.2)
    frames(governor, 200, lambda k: 0.02, now)
    assert governor.quality is Quality.FULL, "the machine is free: full quality"


def test_where_the_network_is_not_the_cause_it_stays_out():
    governor = Governor(worst=Quality.WARP)
    frames(governor, 100, lambda k: 0.1, 0.0)
    assert governor.quality is Quality.WARP


def test_half_the_frames_are_left_out_where_most_come_late_without_the_network_too():
    governor = Governor()
    now = frames(governor, 30, lambda k: 0.05 if k % 4 == 0 else 0.02, 0.0)
    assert governor.quality is Quality.WARP, "a quarter of late frames looks better than half of them"
    now = frames(governor, 3, lambda k: 0.05, now)
    assert governor.quality is Quality.HALVED
    now = frames(governor, 200, lambda k: 0.05 if governor.quality is Quality.HALVED else 0.07, now)
    assert governor.quality is Quality.HALVED, "the whole rate is tried now and then, and given up again"
    frames(governor, 400, lambda k: 0.02, now)
    assert governor.quality is Quality.FULL


def test_a_machine_too_slow_for_the_warp_gets_half_the_pictures_and_all_of_the_sound():
    async def go():
        session, engine = await live(DoubleEngine(step_s=0.045))
        subscription = session.publisher.subscribe()
        film = session.publisher.subscribe(maxlen=200)
        Watcher(session)
        await take(subscription, 20)
        assert engine.halved and session.halved
        await film.next_frame()  # it has begun
        pairs = await take(subscription, 10)
        assert set(np.diff([pair.stamp for pair in pairs]).tolist()) <= {2, 3, 4}
        assert not any(pair.repeated for pair in pairs)
        sounds = [(await asyncio.wait_for(subscription.next_sound(), 5)).stamp for _ in range(4)]
        assert np.diff(sounds).max() <= 2
        repeated = [pair for pair in film.frames if pair.repeated]
        assert repeated and all(pair.i420.size == pairs[0].i420.size for pair in repeated), (
            "a film has them all"
        )
        await end(session)

    run(go())


def test_nobody_there_costs_nothing_and_the_clock_goes_on_afterwards():
    async def go():
        session, engine = await live()
        subscription = session.publisher.subscribe()
        watcher = Watcher(session)
        first = (await take(subscription, 2))[-1]
        await watcher.close()
        await asyncio.sleep(0.2)
        resting = engine.index
        await asyncio.sleep(0.4)
        assert engine.index == resting
        Watcher(session)
        subscription.frames.clear()
        after = (await take(subscription, 1))[0]
        assert after.stamp - first.stamp >= 10
        await end(session)

    run(go())


def test_a_viewer_that_does_not_keep_up_loses_the_oldest_frames():
    async def go():
        session, _ = await live()
        slow = session.publisher.subscribe()
        Watcher(session)
        await asyncio.sleep(0.2)
        assert not slow.frames, "nothing waits for a sender that has not begun"
        first = (await take(slow, 1))[0]
        await asyncio.sleep(0.8)
        assert len(slow.frames) == slow.frames.maxlen and slow.dropped > 5
        after = (await take(slow, 1))[0]
        assert after.stamp - first.stamp > 5, "what it gets next is fresh"
        await end(session)

    run(go())


def test_microphone_blocks_are_bounded_and_taken_in_by_the_clock():
    async def go():
        session, engine = await live()
        for _ in range(500):
            session.push_live(np.full(960, 4000, np.int16), 48000)
        await asyncio.sleep(0.3)
        assert engine.queued_seconds == 0, "the step takes it in"
        subscription = session.publisher.subscribe()
        Watcher(session)
        pairs = await take(subscription, 4)
        assert any(np.abs(pair.audio).max() > 1000 for pair in pairs)
        assert engine.pushed_seconds <= 1.01, "the oldest were dropped"
        await end(session)

    run(go())


def test_a_failing_engine_ends_the_session_with_an_event():
    async def go():
        async with serving(linger_s=0.2) as api:
            info, key = await api.session()
            api.engine.sessions[0].step = lambda: 1 / 0
            async with api.http.ws_connect(api.url + info["audio"], headers=key) as socket:
                events = []
                async with asyncio.timeout(5):
                    async for message in socket:
                        events.append(message.json())
            kinds = [e.get("error", {}).get("code") for e in events]
            assert "engine_failed" in kinds and "ZeroDivision" not in str(events)
            assert await settled(ended=False) == ([], [])
            assert len(api.sessions) == 0 and api.engine.sessions[0].closed

    run(go())


def test_unused_and_old_sessions_are_ended():
    async def go():
        async with serving(linger_s=0.3) as api:
            await api.session()
            assert len(api.sessions) == 1
            await asyncio.sleep(0.9)
            assert len(api.sessions) == 0 and api.engine.sessions[0].closed
        async with serving(max_session_s=0.3, linger_s=1.0) as api:
            info, key = await api.session()
            async with api.http.ws_connect(api.url + info["audio"], headers=key):
                await asyncio.sleep(1.0)
                assert len(api.sessions) == 0

    run(go())


def test_a_socket_that_vanishes_leaves_nothing_running():
    async def go():
        async with serving(linger_s=0.3) as api:
            info, key = await api.session()
            socket = await api.http.ws_connect(api.url + info["audio"], headers=key)
            await socket.send_bytes(bytes(32000))
            await socket.receive()
            socket._response.connection.transport.abort()  # no goodbye
            await asyncio.sleep(1.0)
            assert len(api.sessions) == 0
            assert await settled(ended=False) == ([], [])

    run(go())


def test_shutting_down_ends_everything():
    async def go():
        async with serving() as api:
            for _ in range(2):
                info, key = await api.session()
                await api.http.ws_connect(api.url + info["audio"], headers=key)
            engine = api.engine
        assert all(session.closed for session in engine.sessions)
        assert await settled() == ([], [])

    run(go())


def test_an_engine_that_cannot_start_makes_no_session():
    async def go():
        engine = DoubleEngine()

        def broken(*args, **kwargs):
            raise RuntimeError("no weights at /secret")

        engine.session = broken
        async with serving(engine) as api:
            await api.ready()
            status, body = await api.call("POST", "/v1/sessions", json={"avatar": "demo"})
            assert status == 500 and "/secret" not in str(body) and len(api.sessions) == 0
            assert await settled(ended=False) == ([], [])

    run(go())


def test_playback_events_follow_the_frames():
    playback = Playback()
    events = [playback.next(speech) for speech in (False, True, True, True, False, False, True)]
    assert [e and e["type"] for e in events] == [
        None, "playback.started", None, None, "playback.finished", None, "playback.started",
    ]  # fmt: skip
    assert events[4] == {"type": "playback.finished", "position_ms": 120, "interrupted": False}
    playback.cleared = True
    assert playback.next(False)["interrupted"] is True

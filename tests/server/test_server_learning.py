"""Learning a mouth on a server: beside the calls, one at a time, and nothing of it left."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from double import DoubleEngine
from serving import run, serving, settled, until
from test_server_api import refused
from test_server_films import PNG
from uploads import drawn, person_form
from visavis.clients.client import Client
from visavis.engine.video.personal import PersonalWeights
from visavis.server.engines import VisavisEngine
from visavis.server.gpu_engine import GpuEngine
from visavis.server.worker_handle import start_process


@pytest.fixture
def learning(monkeypatch):
    """Settings of a server that learns with the double engine."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return {"demo": False, "engine_factory": "double:DoubleEngine", "enrollments_per_minute": 0}


async def sent(api, name):
    status, person = await api.call("POST", "/v1/avatars", data=person_form(drawn(), name=name, learn="true"))
    assert status == 202, person
    return person["id"]


async def state_of(api, id, *states):
    """The person, when its learning is in one of these states."""
    async with asyncio.timeout(30):
        while True:
            _, person = await api.call("GET", f"/v1/avatars/{id}")
            if person["learning"]["state"] in states:
                return person
            await asyncio.sleep(0.02)


async def started(api, id):
    """Process and folder of temporary files of who learns: the double's stage tells them."""
    async with asyncio.timeout(30):
        while not (stage := (await state_of(api, id, "running"))["learning"]["stage"]):
            await asyncio.sleep(0.02)
    pid, folder = stage.split()
    assert list(Path(folder).iterdir()), "it has files there"
    return int(pid), Path(folder)


def alive(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_who_has_learned_takes_the_place_of_who_was_enrolled(learning):
    async def go():
        async with serving(DoubleEngine(), **learning) as api:
            assert (await api.call("GET", "/v1/config"))[1]["learning"] is True
            ada = await sent(api, "Ada")
            assert (await api.ready(ada))["state"] == "ready"
            before = await api.call("POST", "/v1/sessions", json={"avatar": ada})
            person = await state_of(api, ada, "done")
            assert person["learning"]["message"] == "learned well" and person["learning"]["progress"] == 1.0
            after = await api.call("POST", "/v1/sessions", json={"avatar": ada})
            assert before[0] == after[0] == 201
            assert [avatar.learned for avatar in api.engine.avatars] == [False, True]
            # one that did not ask has nothing to tell
            _, other = await api.call("POST", "/v1/avatars", data=person_form(drawn(), learn="false"))
            assert "learning" not in await api.ready(other["id"])
            assert (await api.call("DELETE", f"/v1/avatars/{ada}"))[0] == 204
        assert await settled() == ([], [])

    run(go())


def test_the_python_client_sends_films_too(learning, tmp_path):
    (tmp_path / "me.mp4").write_bytes(drawn())

    async def go():
        async with serving(DoubleEngine(), **learning) as api, Client(api.url) as client:
            id = await client.enroll(tmp_path / "me.mp4", consent="mine", name="known", learn=True)
            assert [share async for share in client.wait_ready(id)][-1] == 1.0
            await state_of(api, id, "nothing_gained")
            assert (await client.avatar(id))["learning"]["message"] == "taught nothing"
            plain = await client.enroll(tmp_path / "me.mp4", consent="mine")
            assert "learning" not in await client.avatar(plain)

    run(go())


@pytest.mark.parametrize(
    ("name", "state", "words"),
    [
        ("known", "nothing_gained", "taught nothing"),
        ("short", "failed", "too short to learn from"),
        ("crash", "failed", "ended"),
    ],
)
def test_what_comes_of_it_is_told_and_the_person_stays(learning, name, state, words):
    async def go():
        async with serving(DoubleEngine(), **learning) as api:
            id = await sent(api, name)
            person = await state_of(api, id, "done", "nothing_gained", "failed")
            assert person["learning"]["state"] == state and words in person["learning"]["message"]
            assert person["state"] == "ready"
            assert (await api.call("POST", "/v1/sessions", json={"avatar": id}))[0] == 201
            assert [avatar.learned for avatar in api.engine.avatars] == [False]

    run(go())


def test_one_learns_at_a_time_at_the_lowest_priority_and_deleting_ends_it(learning):
    async def go():
        async with serving(DoubleEngine(), **learning, max_learning=2) as api:
            one, two = await sent(api, "slow"), await sent(api, "Ada")
            pid, folder = await started(api, one)
            assert os.sched_getscheduler(pid) == os.SCHED_IDLE and os.getpriority(os.PRIO_PROCESS, pid) == 19
            answer = await api.call("POST", "/v1/avatars", data=person_form(drawn(), learn="true"))
            assert "without 'learn'" in refused(answer, 503, "busy")
            assert (await api.call("POST", "/v1/avatars", data=person_form(drawn())))[0] == 202
            await api.ready(two)
            assert (await state_of(api, two, "waiting"))["learning"]["progress"] == 0
            assert (await api.call("DELETE", f"/v1/avatars/{one}"))[0] == 204
            await until(lambda: not alive(pid) and not folder.exists())
            await state_of(api, two, "done")
            # one that waits and is deleted never begins
            three, four = await sent(api, "slow"), await sent(api, "slow")
            third, _ = await started(api, three)
            await api.ready(four)
            await api.call("DELETE", f"/v1/avatars/{four}")
            await api.call("DELETE", f"/v1/avatars/{three}")
            await until(lambda: not alive(third) and api.avatars._tasks == {})

    run(go())


def test_the_end_of_the_server_ends_it(learning):
    async def go():
        async with serving(DoubleEngine(), **learning) as api:
            pid, folder = await started(api, await sent(api, "slow"))
            assert alive(pid)
        assert not alive(pid) and not folder.exists()
        assert await settled() == ([], [])

    run(go())


def test_the_folder_goes_with_the_process_where_no_server_is_left_to_remove_it(learning, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()

    async def go():
        worker = start_process("double:DoubleEngine", "learner", 0, live=False, temporary=folder)
        await worker.start(30)
        (folder / "left").write_text("half a network")
        await worker.close()  # as when the server dies: the other end of the link is gone
        return worker.process.returncode

    assert run(go()) == 0
    assert not folder.exists()


def test_the_one_unused_for_longest_makes_room_while_it_learns_too(learning):
    async def go():
        async with serving(DoubleEngine(), **learning, max_avatars=1) as api:
            pid, _ = await started(api, await sent(api, "slow"))
            assert (await api.call("POST", "/v1/avatars", data=person_form(drawn())))[0] == 202
            await until(lambda: not alive(pid))
            assert len(api.avatars._entries) == 1
            # and when it has learned
            await api.ready(next(iter(api.avatars._entries)))
            await state_of(api, await sent(api, "Ada"), "done")
            assert (await api.call("POST", "/v1/avatars", data=person_form(drawn())))[0] == 202
            assert len(api.avatars._entries) == 1

    run(go())


def test_what_cannot_be_learned_is_told_at_the_request(learning, monkeypatch):
    async def go(settings, code, *texts, content=None):
        async with serving(DoubleEngine(), **settings) as api:
            answer = await api.call(
                "POST",
                "/v1/avatars",
                data=person_form(content or drawn(), learn=texts[0] if texts else "true"),
            )
            told = (await api.call("GET", "/v1/config"))[1]["learning"]
            return refused(answer, *code), told

    assert "learn" in run(go(learning, (400, "bad_value"), "perhaps"))[0]
    assert "with a film" in run(go(learning, (400, "bad_value"), content=PNG))[0]
    assert run(go(learning | {"generator": False}, (501, "cannot_learn")))[1] is False
    # the process would be another engine than the one that calls are made by
    other = learning | {"engine_factory": "visavis.server.engines:VisavisEngine"}
    assert "does not learn" in run(go(other, (501, "cannot_learn")))[0]
    monkeypatch.setattr(DoubleEngine, "learning_obstacle", lambda self: "No torch here.")
    assert run(go(learning, (501, "cannot_learn"))) == (
        "No torch here. Send the film without 'learn'.",
        False,
    )


def test_the_engine_says_what_is_missing(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    why = VisavisEngine().learning_obstacle()
    assert "torch" in why and "visavis[train]" in why
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    assert VisavisEngine().learning_obstacle() is None
    assert "one video network" in GpuEngine().learning_obstacle()


def test_the_real_engine_hands_the_film_to_the_training_and_what_was_learned_to_the_avatar(
    avatar, monkeypatch
):
    """The training itself, from a film's content, is tried in tests/engine/test_video_personal.py."""
    pytest.importorskip("torch", reason="training needs the extra: pip install 'visavis[train]'")
    from visavis.engine.training import video_personal

    weights = PersonalWeights(np.ones(8, np.float16), "base")
    asked = []

    def learn(film, *, size, progress):
        progress("learning the mouth", 0.5)
        asked.append((film, size))
        own = weights if film == b"good" else None
        return video_personal.Lesson(own, 0.03, 0.02, 0.01 if own else 0.02, 60)

    monkeypatch.setattr(video_personal, "learn", learn)
    stages = []
    report = lambda *stage: stages.append(stage)  # noqa: E731
    learned, said = VisavisEngine().learn(avatar, b"good", progress=report)
    assert learned.personal is weights and learned.surface is avatar.surface and "learned from 60" in said
    nothing, said = VisavisEngine().learn(avatar, b"bad", progress=report)
    assert nothing is None and "taught nothing" in said
    assert asked == [(b"good", 512), (b"bad", 512)] and stages == [("learning the mouth", 0.5)] * 2

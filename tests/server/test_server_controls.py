"""A person's manner over the wire: what is accepted, what is refused whole, and that what is accepted shows in the motion."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass, field

import numpy as np
import pytest
from double import SIZE, DoubleEngine
from hypothesis import given
from hypothesis import strategies as st
from serving import run, serving, settled
from test_server_api import refused
from test_server_ingest import connect, until
from visavis.clients.client import Client, ClientError
from visavis.engine.motion.channels import INDEX
from visavis.engine.motion.diffusion import Controls
from visavis.engine.session import Session
from visavis.server.controls import (
    LARGEST,
    NAMES,
    PITCH_LIMIT,
    YAW_LIMIT,
    ControlsError,
    change,
    parse_controls,
)
from visavis.server.engines import TimedSession

USUAL = asdict(Controls()) | {"gaze": [0.0, 0.0]}
NUMBERS = st.integers() | st.floats()
ANY = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=60) | st.sampled_from(["warm", "neutral", "Warm"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=60), inner, max_size=3),
    max_leaves=6,
)
GOOD = st.fixed_dictionaries(
    {},
    optional={
        "expressiveness": st.floats(0, LARGEST) | st.integers(0, 2),
        "head_motion": st.floats(0, LARGEST) | st.integers(0, 2),
        "gaze": st.tuples(st.floats(-YAW_LIMIT, YAW_LIMIT), st.floats(-PITCH_LIMIT, PITCH_LIMIT)).map(list),
        "mood": st.sampled_from(["neutral", "warm", "serious"]),
        "listening": st.booleans(),
    },
)
BAD = (
    b"[]", b"{", b'"warm"', b'{"smile": 1}', b'{"controls": {"mood": "warm"}}', b'{"mood": "warm", "": 1}',
    b'{"expressiveness": 2.01}', b'{"expressiveness": -0.01}', b'{"expressiveness": NaN}', b'{"expressiveness": 1e999}',
    b'{"expressiveness": true}', b'{"expressiveness": "1"}', b'{"expressiveness": null}', b'{"head_motion": [1]}',
    b'{"head_motion": 1' + b"0" * 400 + b"}",
    b'{"gaze": 0}', b'{"gaze": [0]}', b'{"gaze": [0, 0, 0]}', b'{"gaze": [0, NaN]}', b'{"gaze": [0.7, 0]}', b'{"gaze": [0, -0.5]}',
    b'{"gaze": [true, 0]}', b'{"gaze": {"yaw": 0}}', b'{"mood": "angry"}', b'{"mood": ["warm"]}', b'{"mood": null}', b'{"listening": 1}',
    b'{"mood": "serious", "expressiveness": 3}', b'{"mood": "serious", "listening": "yes"}',
)  # fmt: skip


@dataclass
class Steered:
    """All that a session has to have to be steered."""

    controls: Controls = field(default_factory=Controls)


@given(ANY | st.dictionaries(st.sampled_from([*NAMES, "x"]), ANY, max_size=5))
def test_any_json_is_controls_or_one_error(value):
    session = Steered(Controls(mood="serious", gaze=(0.1, 0.2)))
    before = session.controls
    try:
        changes = parse_controls(value)
    except ControlsError as error:
        assert str(error) and len(str(error)) < 300 and "\n" not in str(error)
        return
    assert set(changes) == set(value) <= set(NAMES)
    after = change(session, changes)
    assert after == asdict(before) | {"gaze": [0.1, 0.2]} | value
    assert json.loads(json.dumps(after, allow_nan=False)) == after
    assert session.controls == Controls(**after | {"gaze": tuple(after["gaze"])})


@given(GOOD, GOOD)
def test_what_is_not_named_stays(first, second):
    session = Steered()
    change(session, parse_controls(first))
    assert change(session, parse_controls(second)) == USUAL | first | second == change(session, {})


@given(GOOD, st.sampled_from(BAD[3:]))
def test_one_bad_value_spoils_the_whole(good, bad):
    bad = json.loads(bad)
    name = next(iter(bad))
    with pytest.raises(ControlsError):
        parse_controls({k: v for k, v in good.items() if k != name} | bad)


def test_a_manner_is_given_at_the_start_and_changed_in_the_call():
    async def go():
        async with serving() as api:
            await api.ready()
            wanted = {"mood": "warm", "gaze": [0.1, -0.2]}
            _, plain = await api.call("POST", "/v1/sessions", json={"avatar": "demo"})
            status, info = await api.call(
                "POST", "/v1/sessions", json={"avatar": "demo", "seed": 3, "controls": wanted}
            )
            assert status == 201
            key, path = {"Authorization": f"Bearer {info['token']}"}, f"/v1/sessions/{info['id']}"
            assert (await api.call("GET", path, headers=key))[1]["controls"] == USUAL | wanted
            answer = await api.call("PATCH", path, json={"listening": True, "head_motion": 0}, headers=key)
            assert answer == (200, USUAL | wanted | {"listening": True, "head_motion": 0})
            assert await api.call("PATCH", path, json={}, headers=key) == answer
            assert (await api.call("GET", path, headers=key))[1]["controls"] == answer[1]
            other, mine = api.engine.sessions
            assert mine.controls == Controls(1.0, 0.0, (0.1, -0.2), "warm", True)
            assert other.controls == Controls(), "the other session does not notice"
            assert (await api.call("DELETE", path, headers=key))[0] == 204
            refused(await api.call("PATCH", path, json={"mood": "warm"}, headers=key), 404, "no_such_session")
            theirs = {"Authorization": f"Bearer {plain['token']}"}
            path = f"/v1/sessions/{plain['id']}"
            refused(await api.call("PATCH", path, json={"mood": "warm"}, headers=key), 401, "token_wrong")
            refused(await api.call("PATCH", path, json={"mood": "warm"}), 401, "token_missing")
            assert (await api.call("GET", path, headers=theirs))[1]["controls"] == USUAL

    run(go())


def test_what_cannot_be_used_is_refused_and_changes_nothing():
    async def go():
        async with serving(requests_per_s=0, sessions_per_minute=0) as api:
            info, key = await api.session()
            path = f"/v1/sessions/{info['id']}"
            before = (await api.call("PATCH", path, json={"mood": "warm"}, headers=key))[1]
            for body in BAD:
                message = refused(await api.call("PATCH", path, data=body, headers=key), 400)
                assert len(message) < 300
                start = b'{"avatar": "demo", "controls": ' + body + b"}"
                refused(await api.call("POST", "/v1/sessions", data=start), 400)
            refused(await api.call("PATCH", path, data=b" " * 70_000, headers=key), 413, "too_large")
            assert (await api.call("GET", path, headers=key))[1]["controls"] == before
            assert api.engine.sessions[0].controls == Controls(mood="warm") and len(api.sessions) == 1

    run(go())


def test_a_manner_is_changed_over_the_socket():
    async def go():
        async with serving() as api:
            info, key, socket = await connect(api)
            await socket.send_json({"type": "session.update", "session": {"rate": 24000, "live": True}})
            assert (await until(socket, "session.updated"))[0]["session"]["controls"] == USUAL
            update = {"type": "session.update", "session": {"controls": {"mood": "serious"}}}
            await socket.send_json(update)
            told = (await until(socket, "session.updated"))[0]["session"]
            assert told == {"rate": 24000, "live": True, "controls": USUAL | {"mood": "serious"}}
            for bad in ({"mood": "angry"}, {"x": 1}, {"mood": "warm", "gaze": [9, 9]}, 3, None):
                await socket.send_json({"type": "session.update", "session": {"rate": 8000, "controls": bad}})
                error = (await until(socket, "error"))[0]["error"]
                assert error["code"] == "bad_value" and error["message"]
            await socket.send_json({"type": "session.update", "session": {}})
            assert (await until(socket, "session.updated"))[0]["session"] == told, "nothing was changed"
            assert api.engine.sessions[0].controls == Controls(mood="serious")
            # one after the other, in the order in which they came
            for k in range(20):
                update["session"] = {"controls": {"expressiveness": k / 10}}
                await socket.send_json(update)
            seen = [(await until(socket, "session.updated"))[0]["session"]["controls"] for _ in range(20)]
            assert [round(10 * each["expressiveness"]) for each in seen] == list(range(20))
            shown = (await api.call("GET", f"/v1/sessions/{info['id']}", headers=key))[1]["controls"]
            assert shown == USUAL | {"mood": "serious", "expressiveness": 1.9}
            await socket.close()
        assert await settled() == ([], [])

    run(go())


def test_the_python_client_steers():
    async def go():
        async with serving() as api:
            await api.ready()
            async with Client(api.url) as client:
                session = await client.session("demo", seed=2, controls={"mood": "warm"})
                assert await session.steer(expressiveness=0.5) == USUAL | {
                    "mood": "warm", "expressiveness": 0.5,
                }  # fmt: skip
                with pytest.raises(ClientError, match="must be one of neutral") as refusal:
                    await session.steer(mood="angry")
                assert refusal.value.code == "bad_value"
                with pytest.raises(ClientError, match="no control 'smile'"):
                    await client.session("demo", controls={"smile": 1})
                await session.close()
            assert api.engine.sessions[0].controls == Controls(0.5, mood="warm")

    run(go())


class Sheet:
    """In place of a renderer: keeps what it was to draw."""

    def __init__(self):
        self.motion = []

    def render(self, motion):
        self.motion.append(motion.copy())
        return np.zeros((SIZE, SIZE, 3), np.uint8)


@dataclass
class RealMotion(DoubleEngine):
    """The real sessions and motion networks, timed as the real engine times them; only the drawing is left out."""

    sheets: list[Sheet] = field(default_factory=list)

    def session(self, avatar, *, seed, lookahead, max_queue_s, generator=True):
        self.sheets.append(Sheet())
        return TimedSession(
            Session(None, seed=seed, lookahead=lookahead, max_queue_s=max_queue_s, renderer=self.sheets[-1])
        )


def test_a_mood_shows_in_the_motion_of_a_call():
    smile = [INDEX["mouthSmileLeft"], INDEX["mouthSmileRight"]]

    async def go():
        async with serving(RealMotion()) as api:
            info, key, socket = await connect(api)
            (sheet,) = api.engine.sheets

            async def frames(n):
                """Mean smile of the last of the next `n` frames."""
                end = len(sheet.motion) + n
                async with asyncio.timeout(30):
                    while len(sheet.motion) < end:
                        await asyncio.sleep(0.02)
                return float(np.mean([motion[smile] for motion in sheet.motion[end - 10 : end]]))

            plain = await frames(20)
            body = {"mood": "warm", "head_motion": 0.0}
            status, told = await api.call("PATCH", f"/v1/sessions/{info['id']}", json=body, headers=key)
            assert status == 200 and told == USUAL | body
            warm = await frames(60)
            assert warm > plain + 0.1, "a warm person smiles"
            await socket.send_json({"type": "session.update", "session": {"controls": {"expressiveness": 0}}})
            await until(socket, "session.updated")
            assert await frames(40) < warm - 0.1, "one without expression does not"
            await socket.close()
        assert await settled() == ([], [])

    run(go())

"""Films sent to a server: enrolled by their best frame, refused with one clear error, and nothing left of them."""

from __future__ import annotations

import asyncio
import json
import pickle
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from double import DoubleEngine, draw
from films import film_of, sound_only
from serving import run, serving, settled, until
from test_server_api import refused
from uploads import drawn, person_form
from visavis.engine.motion.channels import INDEX
from visavis.engine.video.renderer import Renderer
from visavis.server.engines import VisavisEngine

PNG = cv2.imencode(".png", draw(0.0))[1].tobytes()


@pytest.fixture(scope="module")
def talking(avatar):
    """The demo person in 40 frames: one of them calm, in all others the mouth is open."""
    renderer = Renderer(avatar)
    pictures = []
    for k in range(40):
        motion = avatar.neutral_motion()
        motion[INDEX["jawOpen"]] += 0.0 if k == 20 else 0.3
        pictures.append(renderer.render(motion).copy())
    return pictures


def test_a_film_becomes_a_person_who_can_be_called(talking):
    async def go():
        async with serving(VisavisEngine(), demo=False, size=256) as api:
            status, person = await api.call(
                "POST", "/v1/avatars", data=person_form(film_of(talking, "webm"), "film", name="Ada")
            )
            assert status == 202 and person["name"] == "Ada", person
            stages, shares = set(), set()
            while person["state"] in ("waiting", "enrolling"):
                _, person = await api.call("GET", f"/v1/avatars/{person['id']}")
                stages.add(person["stage"])
                shares.add(person["progress"])
                await asyncio.sleep(0.01)
            assert person["state"] == "ready", person
            assert "looking for the face" in stages and len(shares) > 5
            entry = api.avatars.get(person["id"])
            picture = cv2.imdecode(np.frombuffer(entry.picture, np.uint8), cv2.IMREAD_COLOR)
            assert picture.shape == (256, 256, 3)
            status, _ = await api.call("POST", "/v1/sessions", json={"avatar": person["id"]})
            assert status == 201
        assert await settled() == ([], [])
        return pickle.loads(entry.blob)

    made = run(go())
    assert made.metadata["name"] == "Ada" and made.metadata["consent"] == "mine"
    # the calm frame became the photo: next to nothing is left to shut its mouth
    assert abs(made.neutral_motion()[INDEX["jawOpen"]]) < 0.06


def cut_short(content):
    return content[: len(content) // 2]


def damaged(content):
    """Garbage where the frames are."""
    broken, rng = bytearray(content), np.random.default_rng(1)
    broken[2000:-2000] = rng.bytes(len(broken) - 4000)
    return bytes(broken)


def test_films_that_cannot_be_used_fail_with_one_clear_error_and_leave_nothing(
    talking, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sky = film_of([np.full((256, 256, 3), (90, 140, 220), np.uint8)] * 30)
    whole = film_of(talking)
    cases = {
        "no face": (sky, "no_face", "no face found"),
        "two": (film_of(np.hstack([p, p]) for p in talking[:30]), "several_faces", "one person alone"),
        "short": (film_of(talking[:12]), "too_short", "at least"),
        "long": (film_of(talking[:4] * 16, rate=1), "too_long", "the limit"),
        "cut MP4": (cut_short(whole), "damaged", "cannot be read"),
        "cut WebM": (cut_short(film_of(talking, "webm")), "damaged", "cut short"),
        "damaged": (damaged(whole), "damaged", "cannot be read"),
        "sound": (sound_only(), "not_a_film", "no video"),
    }

    async def go():
        found = {}
        async with serving(
            VisavisEngine(), demo=False, size=256, enrollments_per_minute=0, max_enrollments=len(cases)
        ) as api:
            for name, (content, *_) in cases.items():
                status, person = await api.call("POST", "/v1/avatars", data=person_form(content))
                assert status == 202, person
                found[name] = person["id"]
            for name, id in found.items():
                found[name] = await api.ready(id)
                message = refused(await api.call("POST", "/v1/sessions", json={"avatar": id}), 422)
                assert message == found[name]["error"]["message"]
            assert api.metrics.enrollment_failures.value == len(cases)
        assert await settled() == ([], [])
        return found

    for name, person in run(go()).items():
        _, code, words = cases[name]
        assert person["state"] == "failed" and person["error"]["code"] == code, (name, person)
        assert words in person["error"]["message"] and "--face" not in person["error"]["message"]
        assert "/" not in person["error"]["message"], "no path"
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_a_film_is_refused_at_once():
    async def go():
        async with serving(max_film_bytes=100_000, max_photo_bytes=10_000, enrollments_per_minute=0) as api:

            async def send(content, field="film", **texts):
                return await api.call("POST", "/v1/avatars", data=person_form(content, field, **texts))

            refused(await send(PNG), 422, "not_a_film")
            refused(await send(b"no film at all"), 422, "not_a_film")
            refused(await send(b""), 400, "photo_missing")
            refused(await send(drawn(), face="1"), 400, "bad_value")
            # each kind has a limit of its own, whatever the field is called
            film = drawn(60) + bytes(20_000)
            assert 20_000 < len(film) < 100_000
            assert (await send(film, "photo"))[0] == 202
            assert "film may have" in refused(await send(film + bytes(100_000), "photo"), 413, "too_large")
            assert "photo may have" in refused(await send(PNG + bytes(20_000), "photo"), 413, "too_large")
            assert (await api.call("GET", "/v1/config"))[1]["max_film_bytes"] == 100_000

    run(go())


def test_a_place_is_asked_for_before_the_upload():
    """A full queue is told before a film is held in memory, and an upload counts as one that waits."""

    async def go():
        async with serving(DoubleEngine(), demo=False, max_enrollments=1) as api:
            _, writer = await begun(api, b"\0\0\0\x18ftypisom")
            await until(lambda: api.avatars._uploading == 1)
            refused(await api.call("POST", "/v1/avatars", data=person_form(drawn())), 503, "busy")
            writer.close()  # it hangs up in the middle
            await until(lambda: api.avatars._uploading == 0)
            assert (await api.call("POST", "/v1/avatars", data=person_form(drawn())))[0] == 202
            assert len(api.avatars._entries) == 1
        assert await settled() == ([], [])

    run(go())


async def begun(api, content):
    """A connection over which the upload of a film has begun, and no more comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    head = (
        "POST /v1/avatars HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        "Content-Length: 1000000\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="film"; filename="f.mp4"\r\n\r\n'
    )
    writer.write(head.encode() + content + bytes(50_000))
    await writer.drain()
    return reader, writer


def test_an_upload_that_stalls_gives_its_place_back():
    async def go():
        async with serving(DoubleEngine(), demo=False, max_upload_s=0.3) as api:
            reader, writer = await begun(api, b"\0\0\0\x18ftypisom")
            answer = await asyncio.wait_for(reader.read(4096), 10)
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408") and json.loads(body)["error"]["code"] == "too_slow"
            assert api.avatars._uploading == 0
            writer.close()

    run(go())


def test_the_shared_people_may_be_films(tmp_path):
    async def go():
        (tmp_path / "Ada.mp4").write_bytes(drawn())
        async with serving(demo=False, avatars=(Path(tmp_path / "Ada.mp4"),)) as api:
            (person,) = (await api.call("GET", "/v1/avatars"))[1]["avatars"]
            assert (await api.ready(person["id"]))["state"] == "ready" and person["name"] == "Ada"

    run(go())

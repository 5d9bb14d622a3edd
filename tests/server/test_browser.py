"""One real call in headless Chromium: a speech file as the microphone, the received frames measured.

The page is used as a person would use it. On a machine without Chromium this test fails and says what to install.
"""

from __future__ import annotations

import asyncio

import cv2
import numpy as np
import pytest
from double import SIZE, DoubleEngine, draw
from serving import run, serving, settled, until
from test_server_call import bursts
from uploads import drawn
from visavis.benchmarks.browser import _port, chromium
from visavis.benchmarks.browser_call import lag_ms, record, start_call
from visavis.benchmarks.latency import (
    face_box,
    lip_aperture,
    picture_of,
    server_process,
    stimulus,
)
from visavis.clients.client import Client
from visavis.engine.footage import Footage
from visavis.engine.motion.diffusion import Controls

pytestmark = pytest.mark.browser


def openings(crops):
    """Mouth openings (T,) in pixels of drawn faces: dark rows in the middle column of the lower half."""
    middle = slice(int(crops.shape[2] * 0.47), int(crops.shape[2] * 0.53))
    return (crops[:, crops.shape[1] // 2 :, middle] < 80).sum(axis=1).mean(axis=1) * SIZE / crops.shape[1]


REACH_S = 2.5
"""How far the mouth may be behind the voice before a test takes them for unrelated: how fast a call is, is `visavis bench latency`'s
to say; here a busy machine must not matter."""


def test_a_call_in_chromium(tmp_path):
    async def go():
        speech = bursts(tmp_path / "speech.wav", seconds=8.0)
        async with serving(DoubleEngine(step_s=0.004)) as api, chromium(speech) as page:
            await start_call(page, api.url + "/", "mic")
            await asyncio.sleep(2.0)
            recording = await record(page, 14.0)
            figures = await page.evaluate(
                "['fps', 'delay', 'rtt'].map((k) => document.getElementById('f-' + k).textContent)"
            )
            muted = await page.evaluate("document.getElementById('voice').muted")
            await page.evaluate("document.getElementById('call').click()")
            await page.wait_for("document.getElementById('call-text').textContent === 'Start the call'")
            for _ in range(50):
                if len(api.sessions) == 0:
                    break
                await asyncio.sleep(0.1)
            assert len(api.sessions) == 0, "hanging up ends the session"
            errors = [line for line in page.console if line.startswith(("exception", "error"))]
        assert await settled() == ([], [])
        return recording, figures, muted, errors

    recording, figures, muted, errors = run(go())
    assert errors == []
    assert muted is True, "the caller's own voice does not come back over the loudspeaker unless asked for"
    assert float(figures[0]) > 0 and float(figures[1]) > 0 and float(figures[2]) >= 0
    assert_one_clock(recording)

    mouths = openings(recording.crops)
    _, agreement = lag_ms(*recording.microphone.T, recording.shown, mouths, REACH_S, 0.0)
    assert agreement > 0.7, "the mouth follows the microphone"
    _, agreement = lag_ms(*recording.voice.T, recording.shown, mouths, REACH_S)
    assert agreement > 0.7, "the mouth goes with the received voice"
    assert np.percentile(mouths, 90) > 4 * np.percentile(mouths, 10), "it opens wide, and rests in the pauses"


def assert_one_clock(recording):
    """Frames are stamped on one grid of 40 ms: what is left out on a busy machine leaves a gap on the grid."""
    steps = np.diff(recording.rtp) / 0.04
    assert len(steps) > 20 and np.allclose(steps, np.round(steps), atol=0.05)
    assert steps.min() > 0.5, "in order"


def test_the_demo_person_speaks_in_chromium(tmp_path, avatar):
    """The whole product: the shipped photo, networks and speech, through the page, judged by landmarks on the received frames."""
    stimulus(tmp_path / "speech.wav", seconds=24.0)
    avatar.save(tmp_path / "demo.avatar")

    async def go():
        async with server_process(["--no-demo", "--avatar", str(tmp_path / "demo.avatar")]) as (url, _):
            picture = cv2.imdecode(np.frombuffer(await picture_of(url), np.uint8), cv2.IMREAD_COLOR)
            async with chromium(tmp_path / "speech.wav") as page:
                await start_call(page, url + "/", "mic")
                await asyncio.sleep(2.0)
                return await record(page, 16.0, face_box(picture[:, :, ::-1].copy()))

    recording = run(go())
    assert_one_clock(recording)
    aperture = lip_aperture(recording)
    times, levels = recording.microphone.T
    lag, agreement = lag_ms(times, levels, recording.shown, aperture, REACH_S, 0.0)
    assert agreement > 0.2, "the lips follow the speech"
    heard = np.interp(recording.shown - lag / 1000, times, levels)
    speaking, resting = heard > 0.3 * np.percentile(levels, 97), heard < 0.02 * levels.max()
    assert speaking.sum() > 10 and resting.sum() > 10
    assert np.percentile(aperture[speaking], 75) > 1.5 * np.percentile(aperture[resting], 50), (
        "the lips part in speech and meet in the pauses"
    )


SHOWN = "[document.body.dataset.state, document.getElementById('video').videoWidth, document.getElementById('note').textContent]"
MOUTH = f"""(() => {{
  const video = document.getElementById("video"), canvas = new OffscreenCanvas({SIZE}, {SIZE}), pen = canvas.getContext("2d");
  pen.drawImage(video, 0, 0, {SIZE}, {SIZE});
  const {{ data }} = pen.getImageData({SIZE // 2}, {SIZE // 2}, 1, {SIZE // 2});
  let dark = 0;
  for (let k = 0; k < data.length; k += 4) dark += data[k] < 80;
  return dark;
}})()"""


def test_an_agent_speaks_and_its_page_shows_it(tmp_path):
    """What the README tells those who have a voice already: speech goes in over the WebSocket, whoever has the address sees and hears it."""
    rate = 16_000
    seconds = np.arange(4 * rate) / rate
    loud = (0.4 * 32767 * np.sin(2 * np.pi * 150 * seconds) * (seconds % 1 < 0.6)).astype("<i2")

    async def go():
        async with serving(DoubleEngine()) as api, Client(api.url) as client, chromium() as page:
            await api.ready()
            session = await client.session("demo")
            await page.go(session.watch_url)
            await page.wait_for("document.body.dataset.state === 'live'")
            await page.wait_for(f"document.getElementById('video').videoWidth === {SIZE}")
            await session.connect_audio(rate)
            await session.push(loud.tobytes())
            await session.commit()
            openings = []
            async with asyncio.timeout(30):
                async for event in session.events():
                    if event["type"] == "playback.started":
                        break
                for _ in range(60):
                    openings.append(await page.evaluate(MOUTH))
                    await asyncio.sleep(0.04)
                async for event in session.events():
                    if event["type"] == "playback.finished":
                        break
            framed = await page.evaluate("document.getElementById('voice').srcObject.getAudioTracks().length")
            await session.close()
            await page.wait_for("document.body.dataset.state === 'ended'", 40)
            ended = await page.evaluate(SHOWN)
            assert len(api.sessions) == 0
            for wrong in ("", "#session=s1", "#session=s1&key=k"):
                await page.go(api.url + "/healthz")
                await page.go(api.url + "/watch" + wrong)
                await page.wait_for("document.body.dataset.state === 'ended'")
                assert "address" in await page.evaluate("document.getElementById('note').textContent")
            errors = [line for line in page.console if line.startswith("exception")]
        assert await settled() == ([], [])
        return openings, framed, ended, errors

    openings, tracks, ended, errors = run(go())
    assert errors == []
    assert max(openings) > 4 * max(1, min(openings)), "it opens and shuts its mouth"
    assert tracks == 1
    assert ended[2], "the page says that the session is over"


def test_the_page_says_what_stands_in_the_way(tmp_path):
    async def go():
        async with serving(demo=True, max_sessions=1) as api, chromium() as page:
            await page.go(api.url + "/")
            await page.wait_for("!document.getElementById('call').disabled")
            # no microphone on this machine
            await page.evaluate("document.getElementById('mic').click()")
            words = await page.wait_for("document.getElementById('alert-text').textContent")
            assert "icrophone" in words
            await page.evaluate("document.getElementById('call').click()")
            await page.wait_for("!visavis.call")
            # every session taken
            for _ in range(50):
                if len(api.sessions) == 0:
                    break
                await asyncio.sleep(0.1)
            await api.session()
            await page.evaluate("document.getElementById('call').click()")
            await page.wait_for("document.getElementById('alert-text').textContent.includes('in use')")
            assert await page.evaluate("document.getElementById('alert').getAttribute('role')") == "alert"
            # by keyboard alone: everything can be reached, in order
            reached = await page.evaluate(
                "[...document.querySelectorAll('button, input, a')].filter((e) => e.offsetParent && !e.disabled && e.tabIndex < 0).length"
            )
            assert reached == 0
            # a phone
            await page.size(390, 844, 2, True)
            assert await page.evaluate("document.documentElement.scrollWidth <= 390")
            names = await page.evaluate(
                "[...document.querySelectorAll('button')].filter((e) => !(e.textContent.trim() || e.getAttribute('aria-label'))).length"
            )
            assert names == 0

    run(go())


def test_hanging_up_while_the_call_begins_leaves_no_session():
    async def go():
        async with serving(DoubleEngine(step_s=0.2)) as api, chromium() as page:
            await page.go(api.url + "/")
            await page.wait_for("!document.getElementById('call').disabled")
            for moment in ("true", "Boolean(visavis.call.peer)"):
                await page.evaluate("document.getElementById('call').click()")
                await page.wait_for(moment)
                await page.evaluate("document.getElementById('call').click()")
            await until(lambda: len(api.engine.sessions) == 2 and all(s.closed for s in api.engine.sessions))
            assert len(api.sessions) == 0
            assert await page.evaluate("document.getElementById('alert').hidden")
            assert [line for line in page.console if line.startswith(("exception", "error"))] == []

    run(go())


async def press(page, key, code):
    """One key of the keyboard, on what has the focus."""
    for what in ("rawKeyDown", "keyUp"):
        await page.send("Input.dispatchKeyEvent", type=what, key=key, code=key, windowsVirtualKeyCode=code)


def test_the_manner_is_set_on_the_page_by_keyboard_before_and_in_a_call():
    async def go():
        async with serving() as api, chromium() as page:
            await page.go(api.url + "/")
            await page.wait_for("!document.getElementById('call').disabled")
            names = await page.evaluate(
                "[...document.querySelectorAll('#manner input')].map((e) => e.labels[0]?.textContent.trim().split(/\\s/)[0] ?? '')"
            )
            assert names == ["Expressiveness", "Head", "Neutral", "Warm", "Serious", "Listening"]
            await page.evaluate("document.querySelector('#manner [value=neutral]').focus()")
            await press(page, "ArrowRight", 39)
            await page.evaluate("document.getElementById('call').click()")
            await page.wait_for("visavis.call && visavis.call.state === 'live'")
            (session,) = api.engine.sessions
            assert session.controls == Controls(mood="warm"), "as the panel stood when the call began"
            await page.evaluate("document.getElementById('expressiveness').focus()")
            for _ in range(4):
                await press(page, "ArrowRight", 39)
            await page.evaluate("document.getElementById('head-motion').focus()")
            await press(page, "Home", 36)
            await page.evaluate("document.getElementById('listening').click()")
            await until(lambda: session.controls == Controls(1.4, 0.0, mood="warm", listening=True))
            shown = await page.evaluate(
                "['expressiveness', 'head-motion'].map((id) => document.getElementById(id).getAttribute('aria-valuetext'))"
            )
            assert shown == ["140 %", "0 %"]
            assert await page.evaluate("document.getElementById('alert').hidden")
            await page.evaluate("document.getElementById('call').click()")
            await page.wait_for("!visavis.call")
            assert [line for line in page.console if line.startswith(("exception", "error"))] == []

    run(go())


async def choose_file(page, path):
    """Put a file into the page's field for photos and films."""
    await page.send("DOM.enable")
    root = (await page.send("DOM.getDocument"))["root"]["nodeId"]
    field = (await page.send("DOM.querySelector", nodeId=root, selector="#photo"))["nodeId"]
    await page.send("DOM.setFileInputFiles", nodeId=field, files=[str(path)])


async def agree(page):
    """Consent to what is offered and send it."""
    assert await page.evaluate("document.getElementById('consent-ok').disabled"), "not without consent"
    await page.evaluate("document.getElementById('consent-check').click()")
    await page.evaluate("document.getElementById('consent-ok').click()")
    await page.wait_for("document.querySelectorAll('.person').length === 2")
    await page.wait_for("document.querySelectorAll('.person img').length === 2", 20)


def shown(*ids):
    """An expression: which of these elements are shown."""
    return f"{list(ids)}.filter((id) => !document.getElementById(id).hidden)"


def test_a_photo_is_added_on_the_page_with_consent(tmp_path):
    cv2.imwrite(str(tmp_path / "me.png"), draw(0.0))

    async def go():
        async with serving(DoubleEngine(enroll_s=1.0)) as api, chromium() as page:
            await page.go(api.url + "/")
            await page.wait_for("!document.getElementById('call').disabled", 20)
            await choose_file(page, tmp_path / "me.png")
            await page.wait_for("document.getElementById('consent').open")
            assert await page.evaluate(shown("consent-photo", "consent-film")) == ["consent-photo"]
            await agree(page)
            entries = [e for e in api.avatars._entries.values() if not e.shared]
            assert len(entries) == 1 and "agreed" in entries[0].consent
            await page.evaluate("document.getElementById('call').click()")
            await page.wait_for("visavis.call && visavis.call.state === 'live' && !visavis.video.hidden")

    run(go())


def test_a_film_is_added_on_the_page_as_a_photo_is(tmp_path):
    (tmp_path / "me.webm").write_bytes(drawn(30, "webm"))
    (tmp_path / "large.mp4").write_bytes(drawn(30) + bytes(1 << 20))

    async def go():
        async with serving(DoubleEngine(enroll_s=0.5), max_film_bytes=1 << 20) as api, chromium() as page:
            await page.go(api.url + "/")
            await page.wait_for("!document.getElementById('call').disabled", 20)
            await choose_file(page, tmp_path / "me.webm")
            await page.wait_for("document.getElementById('consent').open")
            assert await page.evaluate(shown("consent-photo", "consent-film", "face-row")) == ["consent-film"]
            assert (
                await page.evaluate("document.getElementById('consent-title').textContent") == "Add this film"
            )
            await page.wait_for("document.getElementById('consent-film').readyState >= 2")
            await agree(page)
            assert [e.name for e in api.avatars._entries.values() if not e.shared] == ["Your film"]
            await choose_file(page, tmp_path / "large.mp4")  # the server's limit is known before the upload
            words = await page.wait_for("document.getElementById('alert-text').textContent")
            assert "1 MB at most" in words
            assert not await page.evaluate("document.getElementById('consent').open")
            assert [line for line in page.console if line.startswith(("exception", "error"))] == []

    run(go())


def test_the_page_tells_how_much_of_a_film_has_been_sent(tmp_path):
    (tmp_path / "me.mp4").write_bytes(drawn(30) + bytes(400_000))

    async def go():
        async with serving(DoubleEngine(enroll_s=0.5)) as api, chromium() as page:
            await page.go(api.url + "/")
            await page.wait_for("!document.getElementById('call').disabled", 20)
            await page.send("Network.enable")
            slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 200_000}
            await page.send("Network.emulateNetworkConditions", **slow)
            await page.evaluate(
                "window.shares = []; const bar = document.getElementById('veil-progress');"
                "new MutationObserver(() => { if (!bar.hidden && document.getElementById('veil-text').textContent === 'Sending the film') "
                "shares.push(bar.value); }).observe(bar, { attributes: true })"
            )
            await choose_file(page, tmp_path / "me.mp4")
            await page.wait_for("document.getElementById('consent').open")
            await agree(page)
            shares = await page.evaluate("shares")
            assert shares[0] == 0 and shares == sorted(shares) and shares[-1] <= 1
            assert any(0.2 < share < 0.9 for share in shares), "on the way, too"
            assert [line for line in page.console if line.startswith(("exception", "error"))] == []

    run(go())


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (503, '{"error": {"code": "no_room", "message": "There is no room."}}', "There is no room."),
        (502, "<html>a proxy's page", "The server answered 502."),
        (200, "<html>a proxy's page", "The file could not be sent. Choose it again."),
    ],
)
def test_a_file_that_is_not_taken_is_said_and_not_sent_for_ever(tmp_path, status, answer, words):
    cv2.imwrite(str(tmp_path / "me.png"), draw(0.0))

    async def go():
        async with serving(DoubleEngine()) as api, chromium() as page:
            await page.go(api.url + "/")
            await page.wait_for("!document.getElementById('call').disabled", 20)
            for name, value in (("status", status), ("responseText", answer)):  # as if it came from there
                await page.evaluate(
                    f"void Object.defineProperty(XMLHttpRequest.prototype, '{name}', {{ get: () => {value!r} }})"
                )
            await choose_file(page, tmp_path / "me.png")
            await page.wait_for("document.getElementById('consent').open")
            await page.evaluate("document.getElementById('consent-check').click()")
            await page.evaluate("document.getElementById('consent-ok').click()")
            assert await page.wait_for("document.getElementById('alert-text').textContent") == words
            await page.wait_for("!document.getElementById('call').disabled")

    run(go())


CAMERA = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")


def test_a_film_is_recorded_on_the_page_and_used():
    async def go():
        async with serving(DoubleEngine()) as api, chromium(flags=CAMERA) as page:
            await page.go(api.url + "/")
            await page.wait_for("!document.getElementById('call').disabled", 20)
            await page.size(390, 844, 2, True)
            await page.evaluate("document.getElementById('record').click()")
            state = "document.getElementById('viewfinder').dataset.state"
            main = "document.getElementById('recorder-main')"
            await page.wait_for(f"{state} === 'ready'")
            assert await page.evaluate("document.documentElement.scrollWidth <= 390")
            await page.wait_for(f"document.activeElement === {main}")
            await press(page, " ", 32)
            await page.wait_for(f"{state} === 'recording'")
            assert await page.evaluate(f"{main}.disabled"), "not before there is enough"
            await page.wait_for(f"document.activeElement === {main}", 20)
            await press(page, " ", 32)
            await page.wait_for(f"{state} === 'taken'")
            await page.wait_for(f"document.activeElement === {main}")
            await press(page, " ", 32)
            await page.wait_for("document.getElementById('consent').open")
            live = "document.getElementById('viewfinder-live').srcObject"
            await page.wait_for(f"{live} === null")  # the camera is off
            await agree(page)
            assert [line for line in page.console if line.startswith(("exception", "error"))] == []
            (content,) = api.engine.films
            return Footage.of(content)

    footage = run(go())
    # a busy machine's camera and encoder begin late: eight seconds by the page's clock may hold seven of film
    assert 6.5 < footage.seconds < 15 and footage.frames > 5 * footage.seconds


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "No camera was found"),
        (("--use-fake-device-for-media-stream", "--deny-permission-prompts"), "The camera is blocked"),
    ],
)
def test_a_camera_that_cannot_be_used_is_one_clear_line(flags, words):
    async def go():
        async with serving() as api, chromium(flags=flags) as page:
            await page.go(api.url + "/")
            await page.wait_for("!document.getElementById('call').disabled", 20)
            await page.evaluate("document.getElementById('record').click()")
            await page.wait_for("document.getElementById('viewfinder').dataset.state === 'failed'")
            line = await page.evaluate("document.getElementById('recorder-line').textContent")
            assert line.startswith(words) and line.count(".") <= 2
            assert (
                await page.evaluate("document.getElementById('recorder-line').getAttribute('role')")
                == "status"
            )
            await press(page, "Escape", 27)
            await page.wait_for("!document.getElementById('recorder').open")
            assert [line for line in page.console if line.startswith(("exception", "error"))] == []

    run(go())


def test_the_browsers_port_is_awaited_while_its_file_is_still_empty(tmp_path):
    async def go():
        process = await asyncio.create_subprocess_exec("sleep", "20")
        try:
            (tmp_path / "DevToolsActivePort").write_text("")
            port = asyncio.create_task(_port(tmp_path, process))
            await asyncio.sleep(0.2)
            assert not port.done()
            (tmp_path / "DevToolsActivePort").write_text("9222\n/devtools/browser/x\n")
            assert await asyncio.wait_for(port, 5) == 9222
        finally:
            process.kill()
            await process.wait()

    run(go())

"""The command line: help with examples, one clear line and code 2 on bad input, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from visavis.clients import cli

COMMANDS = ["serve", "enroll", "render", "track", "call", "train", "bench"]


def write_wav(path: Path, pcm=None, rate=16000) -> Path:
    pcm = (3000 * np.sin(np.arange(rate) / 20)).astype("<i2") if pcm is None else pcm
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm.tobytes())
    return path


@pytest.fixture
def bad(tmp_path, capsys):
    """Runs the command and checks that it fails with code 2 and one line; returns the line."""

    def run(*arguments):
        before = set(tmp_path.rglob("*"))
        assert cli.main([str(a) for a in arguments]) == 2
        captured = capsys.readouterr()
        lines = captured.err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("visavis: "), captured.err
        assert set(tmp_path.rglob("*")) == before, "something was left behind"
        return lines[0]

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert f"example:\n  visavis {command}" in capsys.readouterr().out


def test_bare_and_version(capsys):
    assert cli.main([]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0


def test_unknown_things_cannot_be_distilled(bad):
    assert "invalid choice: 'dog'" in bad("distill", "dog")


def test_arguments_that_make_no_sense(bad, tmp_path):
    wav, out = write_wav(tmp_path / "s.wav"), tmp_path / "o.mp4"
    text = tmp_path / "t.txt"
    text.write_text("hello")
    for arguments in (
        ["nonsense"], ["render"], ["render", "x"], ["render", "x", "-o", out], ["enroll", "x"], ["call"], ["bench"],
        ["render", tmp_path / "none.png", wav, "-o", out],
        ["render", text, wav, "-o", out],
        ["render", text, wav, "--motion", "m.npz", "-o", out],
        ["render", text, tmp_path / "none.wav", "-o", out],
        ["render", text, "--motion", tmp_path / "none.npz", "-o", out],
        ["render", text, "--motion", text, "-o", out],
        ["render", text, wav, "-o", tmp_path / "o.gif"],
        ["render", text, wav, "-o", tmp_path / "no" / "o.mp4"],
        ["render", text, wav, "-o", out, "--seed", "-1"],
        ["render", text, wav, "-o", out, "--seed", "x"],
        ["render", text, wav, "-o", out, "--mood", "angry"],
        ["render", text, wav, "-o", out, "--expressiveness", "2.1"],
        ["render", text, wav, "-o", out, "--expressiveness", "nan"],
        ["render", text, wav, "-o", out, "--head-motion", "-0.5"],
        ["render", text, wav, "-o", out, "--head-motion", "far"],
        ["render", text, "--motion", text, "-o", out, "--mood", "warm"],
        ["enroll", tmp_path / "none.jpg", "-o", tmp_path / "a.avatar"],
        ["enroll", text, "-o", tmp_path / "a.avatar"],
        ["enroll", text, "-o", tmp_path / "a.txt"],
        ["enroll", text, "-o", tmp_path / "a.avatar", "--face", "0"],
        ["enroll", tmp_path, "-o", tmp_path / "a.avatar"],
        ["track", tmp_path / "none.mp4", "-o", tmp_path / "m.npz"],
        ["track", text, "-o", tmp_path / "m.npz"],
        ["track", text, "-o", tmp_path / "m.txt"],
        ["call", "http://127.0.0.1:9", "--speech", tmp_path / "none.wav"],
        ["call", "http://127.0.0.1:9", "--speech", text],
        ["call", "http://127.0.0.1:9", "--speech", wav],
        ["call", "nowhere", "--speech", wav],
        ["call", "http://127.0.0.1:9", "--speech", wav, "--mood", "angry"],
        ["call", "http://127.0.0.1:9", "--speech", wav, "--expressiveness", "-1"],
        ["call", "http://127.0.0.1:9", "--speech", wav, "--head-motion", "inf"],
        ["call", "http://127.0.0.1:9", "--speech", wav, "--seed", "-1"],
        ["call", "http://127.0.0.1:9", "--speech", wav, "--record", tmp_path / "o.txt"],
        ["serve", "--port", "99999"], ["serve", "--avatar", tmp_path / "none.avatar"], ["serve", "--avatar", __file__], ["serve", "--sessions", "0"],
        ["serve", "--size", "500"], ["serve", "--ice-server", "http://x"], ["serve", "--lookahead", "3"],
        ["bench", "nonsense"], ["train", "dog"],
    ):  # fmt: skip
        bad(*arguments)


def test_a_manner_that_cannot_be_is_named_by_its_option(bad, tmp_path):
    wav = write_wav(tmp_path / "s.wav")
    call = ["call", "http://127.0.0.1:9", "--speech", wav]
    assert "--mood angry must be one of neutral, warm, serious" in bad(*call, "--mood", "angry")
    assert "--head-motion 3.0 must be a number from 0 to 2" in bad(*call, "--head-motion", "3")
    assert "cannot reach" in bad(*call, "--head-motion", "2", "--mood", "warm", "--expressiveness", "0")


def test_an_avatar_file_that_is_none(bad, tmp_path):
    broken = tmp_path / "a.avatar"
    for content in (b"", b"x" * 100, (8).to_bytes(8, "little") + b"{}      ", b"\xff" * 4000):
        broken.write_bytes(content)
        bad("render", broken, write_wav(tmp_path / "s.wav"), "-o", tmp_path / "o.mp4")


def test_a_port_that_is_taken(bad):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "cannot listen" in bad("serve", "--no-demo", "--port", taken.getsockname()[1])


@given(st.lists(st.text(max_size=12), max_size=5))
def test_any_words_end_with_a_code_and_no_traceback(words):
    if words and words[0] in ("serve", "bench", "train", "distill"):
        return
    try:
        assert cli.main(words) in (0, 2)
    except SystemExit as stop:
        assert stop.code == 0  # --help, --version


def test_our_own_faults_are_named_as_such(monkeypatch, capsys):
    monkeypatch.setattr(cli, "_avatar", lambda *a, **k: 1 / 0)
    monkeypatch.delenv("VISAVIS_DEBUG", raising=False)
    assert cli.main(["render", "x", __file__, "-o", "o.mp4"]) == 1
    assert "fault of visavis" in capsys.readouterr().err


def test_ctrl_c_ends_the_server_cleanly():
    process = subprocess.Popen(
        [sys.executable, "-m", "visavis.clients.cli", "serve", "--no-demo", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert "http://127.0.0.1:" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0 and "Traceback" not in out + err


def test_ctrl_c_ends_a_command_with_130(tmp_path):
    if sys.platform == "win32":
        pytest.skip("signals")
    fifo = tmp_path / "s.wav"
    # a server that accepts and never answers keeps the call waiting
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        write_wav(fifo)
        process = subprocess.Popen(
            [sys.executable, "-m", "visavis.clients.cli", "call", f"http://127.0.0.1:{silent.getsockname()[1]}", "--speech", str(fifo)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        try:
            silent.settimeout(60)
            connection, _ = silent.accept()
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
            connection.close()
        finally:
            process.kill()
    assert process.returncode == 130 and "Traceback" not in out + err, err
    assert err.strip().endswith("interrupted")

"""The README's code for agents is run as it stands there, against a server."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import numpy as np
from double import DoubleEngine
from serving import run, serving

README = Path(__file__).parents[2] / "README.md"


def test_what_the_readme_tells_agents_to_do_works(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (code,) = [block for block in blocks if "watch_url" in block]
    heard = []

    async def synthesise(words):
        heard.append(words)
        for _ in range(3):
            yield (8000 * np.ones(2400)).astype("<i2").tobytes()

    async def go():
        async with serving(DoubleEngine()) as api:
            await api.ready()
            body = code.replace("http://127.0.0.1:8080", api.url)
            start = re.search(r"^asyncio\.run\((.*)\)$", body, re.MULTILINE)
            assert start is not None
            names = {"synthesise": synthesise}
            exec(body.replace(start[0], ""), names)
            async with asyncio.timeout(30):
                await eval(start[1], names)
            return api.url

    url = run(go())
    assert heard == ["Hello. How can I help you?"]
    assert f"The person is at {url}/watch#session=" in capsys.readouterr().out

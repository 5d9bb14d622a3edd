"""A browser's call through the relay: its offer loses its own addresses, the answer gets the relay's, so that all packets pass it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from visavis.benchmarks.browser import Page
from visavis.benchmarks.relay import LossyRelay, through

_INTERCEPT = """
(() => {
  const send = window.fetch;
  window.fetch = async (url, options = {}) => {
    if (!String(url).endsWith("/offer")) return send(url, options);
    const body = JSON.parse(options.body);
    body.sdp = body.sdp.replace(/^a=candidate:.*\\r\\n/gm, "");
    const answer = await (await send(url, {...options, body: JSON.stringify(body)})).json();
    answer.sdp = await new Promise((done) => { window.relay = {sdp: answer.sdp, done}; });
    return new Response(JSON.stringify(answer), {headers: {"Content-Type": "application/json"}});
  };
})()
"""


async def relay_next_call(page: Page, relay: LossyRelay) -> asyncio.Task[None]:
    """Lead the page's next call over `relay`; the task ends when that has happened."""
    await page.evaluate(_INTERCEPT)

    async def lead() -> None:
        sdp: Any = await page.wait_for("window.relay && window.relay.sdp", 30)
        await page.evaluate(f"window.relay.done({json.dumps(await through(relay, sdp))})")

    return asyncio.create_task(lead(), name="relay-call")

"""A bad network in user space: a UDP relay between a caller and the server that drops, delays, reorders and limits packets."""

from __future__ import annotations

import asyncio
import random
import re
from dataclasses import dataclass, field
from functools import partial
from typing import Any

_CANDIDATE = re.compile(r"^a=candidate:\S+ \d+ (?i:udp) \d+ (\S+) (\d+) typ host.*$", re.MULTILINE)
QUEUE_S = 0.3
"""What a narrow link holds back before it drops."""
Address = tuple[str, int]


@dataclass(eq=False)
class LossyRelay:
    """Packets both ways: `loss` and `reorder` are shares, `jitter_s` the largest extra delay, `kbps` the rate each way."""

    loss: float = 0.0
    jitter_s: float = 0.0
    delay_s: float = 0.0
    reorder: float = 0.0
    kbps: float = 0.0
    seed: int = 0
    passed: int = 0
    dropped: int = 0
    _server: Address | None = None
    _caller: Address | None = None
    _sides: list[asyncio.DatagramTransport] = field(default_factory=list)
    _free_at: list[float] = field(default_factory=lambda: [0.0, 0.0])
    _last_at: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    async def open(self, server: Address) -> Address:
        """Begin to relay to `server`; the address that callers send to instead."""
        loop = asyncio.get_running_loop()
        self._server = server
        host = "127.0.0.1" if server[0].startswith("127.") else server[0]
        for side in (0, 1):
            transport, _ = await loop.create_datagram_endpoint(
                partial(_Side, self, side), local_addr=(host, 0)
            )
            self._sides.append(transport)
        return self._sides[0].get_extra_info("sockname")[:2]

    def take(self, side: int, data: bytes, address: Address) -> None:
        """A packet that came in: from the caller on side 0, from the server on side 1."""
        if side == 0:
            self._caller = address
        to = self._server if side == 0 else self._caller
        if to is None:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        at = now + self.delay_s + self._random.uniform(0, self.jitter_s)
        if self.kbps:
            self._free_at[side] = max(self._free_at[side], now) + len(data) * 8 / (self.kbps * 1000)
            at = max(at, self._free_at[side])
        if self._random.random() < self.loss or at - now > self.delay_s + self.jitter_s + QUEUE_S:
            self.dropped += 1
            if self.kbps:
                self._free_at[side] -= len(data) * 8 / (self.kbps * 1000)
            return
        if self._random.random() >= self.reorder:  # in order, but for those that are meant to overtake
            at = self._last_at[side] = max(at, self._last_at[side])
        self.passed += 1
        loop.call_at(at, self._forward, 1 - side, data, to)

    def _forward(self, side: int, data: bytes, to: Address) -> None:
        if self._sides and not self._sides[side].is_closing():
            self._sides[side].sendto(data, to)

    def close(self) -> None:
        """End the relay."""
        for transport in self._sides:
            transport.close()


class _Side(asyncio.DatagramProtocol):
    def __init__(self, relay: LossyRelay, side: int) -> None:
        self._relay, self._side = relay, side

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._relay.take(self._side, data, addr[:2])


async def through(relay: LossyRelay, sdp: str) -> str:
    """The server's answer with its addresses replaced by the relay's (its first IPv4 host candidate is relayed)."""
    hosts = [match for match in _CANDIDATE.finditer(sdp) if ":" not in match[1]]
    if not hosts:
        raise ValueError("the answer has no IPv4 host candidate")
    host, port = await relay.open((hosts[0][1], int(hosts[0][2])))
    line = f"a=candidate:relay 1 udp 2130706431 {host} {port} typ host"
    kept = [text for text in sdp.splitlines() if not text.startswith("a=candidate:")]
    out = []
    for text in kept:
        if text == "a=end-of-candidates":
            out.append(line)
        out.append(text)
    if line not in out:
        out = [item for text in out for item in ([text, line] if text.startswith("a=ice-pwd:") else [text])]
    return "\r\n".join(out) + "\r\n"

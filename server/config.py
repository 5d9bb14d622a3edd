"""What a server is told at its start: addresses, limits, people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from visavis.server.tokens import turn_credentials

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
MIB = 1 << 20
FILM_S = (1.0, 60.0)
"""How short and how long a film may be that is enrolled over HTTP; 8 to 15 s are good."""


@dataclass(frozen=True)
class ServerConfig:
    """Limits are generous for one machine and one household; raise them knowingly.

    Nothing that callers send is written to disk. Times are in seconds, sizes in bytes.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    avatars: tuple[Path, ...] = ()
    """`.avatar` files, photos or films that everybody may choose, enrolled in the background at the start."""
    demo: bool = True
    """Also offer the demo person."""
    size: int = 512
    """Side in pixels of the video of people enrolled by this server."""
    lookahead: int = 2
    """Frames (40 ms) of speech that the engine waits for before it moves the mouth: 0 to 2."""
    workers: int = 0
    """Processes that make frames; 0: a thread of this process does (tests, embedding)."""
    engine_factory: str = "visavis.server.engines:VisavisEngine"
    """What workers make their engine of, "module:class"."""
    generator: bool = True
    """Full quality; False: the moved photo alone, for more sessions. A session may ask for less, not for more."""
    max_sessions: int = 16
    """At most; fewer where the measured cost of a frame says so."""
    max_viewers: int = 8
    """Peer connections that one session may have at the same time."""
    max_avatars: int = 16
    """People enrolled over HTTP that are held in memory; the one unused for longest makes room."""
    max_enrollments: int = 4
    """Photos and films that may be on their way here or wait for enrolment."""
    max_learning: int = 4
    """People that may learn from their films or wait for it; the films are held in memory meanwhile."""
    max_photo_bytes: int = 24 * MIB
    max_film_bytes: int = 64 * MIB
    """A quarter of a minute of what telephones film is 15 to 50 MB."""
    max_upload_s: float = 300.0
    """How long the upload of a photo or film may take."""
    max_json_bytes: int = 64 * 1024
    max_sdp_bytes: int = 256 * 1024
    max_message_bytes: int = 2 * MIB
    """Largest WebSocket message."""
    max_queue_s: float = 60.0
    """Seconds of speech that a session holds before it refuses more."""
    max_recording_bytes: int = 256 * MIB
    """Where a film of a call ends; it is held in memory until it is fetched."""
    linger_s: float = 45.0
    """How long a session outlives its last connection (a reload finds it again)."""
    max_session_s: float = 4 * 3600.0
    """Longest life of a session; 0 for no limit."""
    requests_per_s: float = 50.0
    """Requests of one address a second, four times that at once; 0 for no limit."""
    sessions_per_minute: float = 30.0
    """New sessions of one caller."""
    enrollments_per_minute: float = 10.0
    """Photos and films of one caller."""
    messages_per_s: float = 400.0
    """WebSocket messages of one connection; beyond it the server reads more slowly."""
    auth: bool | None = None
    """Whether photos, new sessions and metrics need an access token; None: beyond localhost."""
    secret: str = ""
    """Signs tokens; empty: made at the start, so that tokens end with the server."""
    tls: tuple[Path, Path] | None = None
    """Certificate chain and key, PEM files."""
    drain_s: float = 20.0
    """How long calls may go on after the server was told to end."""
    allowed_hosts: tuple[str, ...] = ()
    """Further host names under which a loopback server may be addressed (a defence against DNS rebinding)."""
    allowed_origins: tuple[str, ...] = ()
    """Further web origins (`https://example.org`) whose pages may call this server."""
    ice_servers: tuple[str, ...] = ()
    """STUN or TURN URLs handed to browsers and used by the server; none by default."""
    turn_secret: str = ""
    """Shared with the TURN server: user names and passwords that end (coturn's `use-auth-secret`) go with its URLs."""
    turn_lifetime_s: float = 3600.0

    def ice(self, subject: str) -> list[dict[str, str]]:
        """ICE servers for one caller, as browsers take them."""
        servers = []
        for url in self.ice_servers:
            server = {"urls": url}
            if url.startswith("turn") and self.turn_secret:
                server["username"], server["credential"] = turn_credentials(
                    self.turn_secret, subject, self.turn_lifetime_s
                )
            servers.append(server)
        return servers

    @property
    def loopback(self) -> bool:
        """Whether the server listens on this machine alone."""
        return self.host in LOOPBACK_HOSTS

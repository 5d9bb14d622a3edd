"""Where a network runs. One interface: `load(path)` gives a `Network`, a callable on named arrays."""

from visavis.engine.runtime.network import Network, NetworkError, load

__all__ = ["Network", "NetworkError", "load"]

"""Where a network runs. One interface: `load(path)` gives a `Network`, a callable on named arrays."""

from visavis.engine.runtime.network import Network, NetworkError, load, networks_from

__all__ = ["Network", "NetworkError", "load", "networks_from"]

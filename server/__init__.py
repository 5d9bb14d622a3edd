"""Sessions on the wire: HTTP, WebRTC, WebSocket, metrics, the web page."""

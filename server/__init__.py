"""visavis.server: sessions on the wire (HTTP, WebRTC, WebSocket, the page)."""

"""LiveKit's SDK, or the word of what brings it."""

from percepnet.integrations import needs

with needs("livekit", "LiveKit's SDK", "this sidecar"):
    import livekit.rtc as rtc

__all__ = ["rtc"]

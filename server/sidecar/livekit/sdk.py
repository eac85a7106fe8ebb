"""LiveKit's SDK, or the word of what brings it."""

from percepnet.extras import needs

with needs("livekit", "this sidecar needs", "LiveKit's SDK"):
    import livekit.rtc as rtc

__all__ = ["rtc"]

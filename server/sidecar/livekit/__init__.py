"""Enhanced twins for the participants of LiveKit's rooms. Needs the extra ``livekit``."""

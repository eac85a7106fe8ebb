"""Audio level of the RTP header extension (RFC 6464), in place of aiortc's loop over single samples.

aiortc computes it on the event loop for each packet sent, also where nobody negotiated the extension; its
loop takes more time than all the rest of a call, and reads stereo 3 dB too high.
"""

import logging
import math
from typing import Final

import aiortc.rtp
import numpy as np
from av import AudioFrame

from percepnet.framing import FULL_SCALE

SILENCE_DBOV: Final = -127

logger = logging.getLogger(__name__)


def audio_level_dbov(frame: AudioFrame) -> int:
    """RMS level of a packed s16 frame over all its channels: −127…0 dB relative to overload."""
    count = frame.samples * frame.layout.nb_channels
    plane = memoryview(frame.planes[0])  # longer than the samples in it
    samples = np.frombuffer(plane, np.int16, count).astype(np.float32)
    power = float(samples @ samples) / max(count, 1) / FULL_SCALE**2
    if power <= 0:
        return SILENCE_DBOV
    return max(SILENCE_DBOV, min(0, round(10 * math.log10(power))))


def install() -> bool:
    """Replace aiortc's function, once for the process; False, with a warning, where it is not found."""
    if not callable(getattr(aiortc.rtp, "compute_audio_level_dbov", None)):
        logger.warning("aiortc %s has no compute_audio_level_dbov to replace", aiortc.__version__)
        return False
    aiortc.rtp.compute_audio_level_dbov = audio_level_dbov
    return True

"""What the twin of somebody who says the noisy recording again and again sounds like."""

import numpy as np
from calling import PACKET, unlikeness_db

from percepnet import Enhancer
from percepnet.framing import Float, Pcm
from server.loadtest.hearing import enhancement, is_enhanced, lag

LATENCY = 1440
HEARD = 20 * 48_000  # samples; longer than anybody listens


def enhanced_voice(noisy: Float) -> Float:
    """What the library makes of the recording, as long as it takes; the recording goes on from its beginning."""
    return Enhancer().process(np.resize(noisy, HEARD)[np.newaxis])[0]


def is_the_enhanced(speech: Pcm, enhanced: Float, heard: Pcm) -> bool:
    """Nearer to what the library makes of the recording than to the recording, and quieter in its pauses."""
    said = np.resize(speech, HEARD)
    late = lag(said, heard)  # below 0: the listener came when some of it had been said
    if late is None:
        return False
    part = slice(PACKET * 50, len(heard))
    sent = np.roll(said, late)[part]
    wanted = np.roll(enhanced, late - LATENCY)[part]
    change = enhancement(sent, heard[part], np.ones(len(sent), bool))
    nearer = unlikeness_db(heard[part], wanted) < unlikeness_db(heard[part], sent) / 2
    return nearer and change is not None and is_enhanced(*change)

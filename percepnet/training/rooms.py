"""Room responses of shoebox rooms by the image method (Allen and Berkley 1979), with their high-pass filter.

All images being positive, they add up towards 0 Hz as they do in no room.
"""

import itertools

import numpy as np
from scipy.signal import butter, sosfilt

from percepnet.framing import SAMPLE_RATE, Float

_SOUND = 343.0  # m/s
_ORDER = 9  # images on each side and axis
_SECONDS = 0.5
_HIGH_PASS = butter(2, 80, "highpass", fs=SAMPLE_RATE, output="sos")
EARLY = int(0.015 * SAMPLE_RATE)  # samples after the direct sound that belong to the wanted speech


def room_response(rng: np.random.Generator) -> Float:
    """A random room's response ``[samples]``, direct sound first and of amplitude 1."""
    room = rng.uniform([2.5, 2.5, 2.2], [9, 7, 3.5])
    source, microphone = (rng.uniform(0.3, room - 0.3) for _ in range(2))
    reflection = rng.uniform(0.5, 0.92)

    orders = np.array(list(itertools.product(range(-_ORDER, _ORDER + 1), repeat=3)))  # [images, 3]
    sides = np.array(list(itertools.product((0, 1), repeat=3)))  # [8, 3]
    images = (1 - 2 * sides)[:, None] * source + 2 * orders * room  # [8, images, 3]
    bounces = (np.abs(orders - sides[:, None]) + np.abs(orders)).sum(-1)
    distance = np.linalg.norm(images - microphone, axis=-1)
    delay = np.rint(distance / _SOUND * SAMPLE_RATE).astype(int)
    amplitude = reflection**bounces / distance

    delay -= delay.min()
    inside = delay < int(_SECONDS * SAMPLE_RATE)
    response = np.bincount(delay[inside], amplitude[inside], minlength=int(_SECONDS * SAMPLE_RATE))
    heard = sosfilt(_HIGH_PASS, response)
    return (heard / np.abs(heard[0])).astype(np.float32)

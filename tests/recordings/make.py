"""Make clean.flac, noise.flac and noisy.flac from two Debian packages; see README.md beside it.

python tests/recordings/make.py FOLDER, where FOLDER holds ``dpkg-deb -x`` of each package.
"""

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 48_000  # Hz
SNR = 7.5  # dB, speech while it is active to noise
SPEECH_LEVEL = -26.0  # dBFS, RMS while active
LEAD_IN = 0.6  # s of noise alone before the first word
PAUSE = 0.22  # s between two phrases
ROOM = 0.06  # s kept before and after a phrase
CROSSFADE = 0.8  # s from one noise to the other

PHRASES = {
    "el": "moon_fallingstar moon_astronaut moon_satellite tv_car",
    "uk": "butterflies_purple_shape tux-candles maiden-tux robot_workshop_rocket",
}
VOICES = "usr/share/ktuberling/sounds"
CAFE = "usr/share/games/supertuxkart/data/sfx/lenautile_restaurant.ogg"
CAFE_START = 18.6  # s
RIVER = "usr/share/games/supertuxkart/data/sfx/river_loop.ogg"

Samples = NDArray[np.float64]


def decode(path: Path) -> Samples:
    resampler = av.AudioResampler("fltp", "mono", SAMPLE_RATE)
    with av.open(str(path)) as container:
        frames = [g for f in container.decode(audio=0) for g in resampler.resample(f)]
    frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float64)


def encode(path: Path, x: Samples) -> None:
    with av.open(str(path), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.round(x * 32767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def active_power(x: Samples) -> float:
    """Mean power of the 20 ms frames within 35 dB of the loudest."""
    power = np.mean(x[: len(x) // 960 * 960].reshape(-1, 960) ** 2, axis=1)
    return float(power[power > power.max() * 10**-3.5].mean())


def phrase(x: Samples) -> Samples:
    """One phrase without the silence around it, faded in and out, at the level of speech."""
    power = np.mean(x[: len(x) // 240 * 240].reshape(-1, 240) ** 2, axis=1)
    heard = np.flatnonzero(power > power.max() * 1e-4)
    room = int(ROOM * SAMPLE_RATE)
    x = x[max(0, heard[0] * 240 - room) : heard[-1] * 240 + 240 + room].copy()
    ramp = np.sin(np.linspace(0, np.pi / 2, room // 2)) ** 2
    x[: len(ramp)] *= ramp
    x[-len(ramp) :] *= ramp[::-1]
    return x * np.sqrt(10 ** (SPEECH_LEVEL / 10) / active_power(x))


def main(folder: Path, out: Path) -> None:
    def find(path: str) -> Path:
        return next(folder.glob(f"*/{path}"))

    parts = [np.zeros(int(LEAD_IN * SAMPLE_RATE))]
    for language, names in PHRASES.items():
        for name in names.split():
            parts += [
                phrase(decode(find(f"{VOICES}/{language}/{name}.ogg"))),
                np.zeros(int(PAUSE * SAMPLE_RATE)),
            ]
    clean = np.concatenate(parts)
    clean = np.pad(clean, (0, -len(clean) % 960))  # whole packets

    cafe = decode(find(CAFE))[int(CAFE_START * SAMPLE_RATE) :]
    river = decode(find(RIVER))
    fade = int(CROSSFADE * SAMPLE_RATE)
    start = sum(map(len, parts[: 1 + 2 * len(PHRASES["el"].split())])) - fade // 2  # when the voice changes
    river *= np.sqrt(np.mean(cafe[: start + fade] ** 2) / np.mean(river**2))
    ramp = np.sin(np.linspace(0, np.pi / 2, fade))
    noise = np.concatenate([cafe[:start], np.zeros(len(clean) - start)])
    noise[start : start + fade] = cafe[start : start + fade] * ramp[::-1] + river[:fade] * ramp
    noise[start + fade :] = river[fade : fade + len(noise) - start - fade]
    noise *= np.sqrt(active_power(clean) / np.mean(noise**2) / 10 ** (SNR / 10))

    # Rounded apart, so that noisy = clean + noise holds to the bit in the files too.
    whole = [np.round(x * 32767) / 32767 for x in (clean, noise)]
    for name, x in zip(("clean", "noise", "noisy"), (*whole, sum(whole)), strict=True):
        encode(out / f"{name}.flac", np.asarray(x))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent)

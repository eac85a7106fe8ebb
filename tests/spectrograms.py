"""Make the README's picture of the sample, noisy and enhanced: python tests/spectrograms.py [FILE.png]"""

import io
import sys
from pathlib import Path

import matplotlib
import numpy as np
from conftest import recording
from screenshot import save

from percepnet import enhance
from percepnet.framing import SAMPLE_RATE

PICTURE = Path(__file__).parent / "pictures" / "spectrograms.png"
QUIET, LOUD = -115.0, -45.0  # dB


def main(picture: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    noisy = recording("noisy")
    rows = {"noisy": noisy, "enhanced": enhance(noisy, SAMPLE_RATE), "clean": recording("clean")}
    with pyplot.style.context("dark_background"):
        figure, axes = pyplot.subplots(3, 1, figsize=(11, 6.6), sharex=True, layout="constrained")
        for axis, (name, samples) in zip(axes, rows.items(), strict=True):
            dither = 1e-7 * np.random.default_rng(0).standard_normal(len(samples))
            axis.specgram(
                samples + dither,
                NFFT=1536,
                Fs=SAMPLE_RATE,
                noverlap=1152,
                cmap="inferno",
                vmin=QUIET,
                vmax=LOUD,
            )
            axis.set_yticks(range(0, 24_001, 4000), [f"{khz}" for khz in range(0, 25, 4)])
            axis.set_ylabel(f"{name}\nkHz")
        axes[-1].set_xlabel("s")
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=88)
    save(drawn, picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)

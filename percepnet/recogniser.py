"""A speech recogniser's word errors: pocketsphinx with the English model that its package carries."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from percepnet.extras import needs
from percepnet.framing import SAMPLE_RATE, Float
from percepnet.resampling import resample

_RATE: Final = 16_000  # Hz
_LEVEL: Final = 0.05  # RMS that it is given, whatever the recording's


def words(samples: Float) -> list[str]:
    """What it understands of ``samples [n]`` at 48 kHz."""
    narrow = resample(samples[None], SAMPLE_RATE, _RATE)[0]
    narrow = narrow * (_LEVEL / max(float(np.sqrt(np.mean(np.square(narrow)))), 1e-6))
    decoder = _decoder()
    decoder.reinit_feat()  # or what it has heard before would have its part in this
    decoder.start_utt()
    decoder.process_raw((np.clip(narrow, -1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return hypothesis.hypstr.split() if hypothesis else []


def word_errors(wanted: Sequence[str], heard: Sequence[str]) -> int:
    """Words inserted, left out and replaced, at the least (Levenshtein)."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(wanted, 1):
        before, row = row, [i]
        for j, other in enumerate(heard, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (word != other)))
    return row[-1]


@lru_cache(maxsize=1)
def _decoder() -> Any:
    with needs("eval", "the recogniser needs"):
        from pocketsphinx import Decoder
    return Decoder(samprate=_RATE, loglevel="FATAL")

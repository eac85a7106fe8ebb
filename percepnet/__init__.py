"""PercepNet: perceptually motivated full-band speech enhancement in real time.

>>> from percepnet import Enhancer, enhance
"""

from percepnet.enhancer import Enhancer
from percepnet.recording import enhance

__all__ = ["Enhancer", "enhance"]

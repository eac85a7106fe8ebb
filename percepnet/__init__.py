"""PercepNet: perceptually motivated full-band speech enhancement in real time.

>>> from percepnet import Enhancer, StreamingEnhancer, enhance
"""

from percepnet.enhancer import Enhancer
from percepnet.recording import enhance
from percepnet.streaming import StreamingEnhancer

__all__ = ["Enhancer", "StreamingEnhancer", "enhance"]

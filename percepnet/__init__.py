"""PercepNet: perceptually motivated full-band speech enhancement in real time."""

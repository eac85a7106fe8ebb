import numpy as np

from percepnet import framing
from percepnet.framing import ANALYSIS, HOP, LATENCY, LOOKAHEAD, WINDOW


def test_window_is_power_complementary() -> None:
    assert np.allclose(ANALYSIS[:HOP] ** 2 + ANALYSIS[HOP:] ** 2, 1, atol=1e-6)


def test_latency_is_30_ms() -> None:
    assert LATENCY == 1440


def test_frames_overlap_by_half_and_can_be_delayed() -> None:
    samples = np.arange(10 * HOP, dtype=np.float32)[None]
    newest = framing.frames(samples, 3)
    assert newest.shape == (1, 3, WINDOW)
    assert newest[0, -1, -1] == samples[0, -1]
    assert newest[0, 1, 0] - newest[0, 0, 0] == HOP
    delayed = framing.frames(samples, 3, delay=LOOKAHEAD)
    assert delayed[0, -1, -1] == samples[0, -1] - LOOKAHEAD * HOP


def test_analysis_and_synthesis_return_the_signal() -> None:
    samples = np.random.default_rng(0).standard_normal((3, 20 * HOP)).astype(np.float32)
    frames = framing.frames(samples, 19)
    tail = np.zeros((3, HOP), np.float32)
    out = framing.overlap_add(framing.synthesis(framing.spectrum(frames)), tail)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out[:, HOP:], samples[:, HOP:-HOP], atol=2e-6)

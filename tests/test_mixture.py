import numpy as np
import pytest

from percepnet.mixture import active_level, at_ratio, excerpt


def bursts(seconds: int, level: float) -> np.ndarray:
    """Tone bursts of half a second and pauses as long."""
    time = np.arange(48_000 * seconds) / 48_000
    return (level * np.sqrt(2) * np.sin(2 * np.pi * 200 * time) * (time % 1 < 0.5)).astype(np.float32)


def test_pauses_do_not_count() -> None:
    assert active_level(bursts(4, 0.1)) == pytest.approx(0.1, rel=1e-3)
    hiss = np.random.default_rng(0).standard_normal(4 * 48_000).astype(np.float32) * np.float32(1e-3)
    assert active_level(bursts(4, 0.1) + hiss) == pytest.approx(0.1, rel=1e-3)
    assert active_level(np.zeros(1_000, np.float32)) == 0


@pytest.mark.parametrize("snr", [-5, 0, 12.5])
def test_ratio_is_active_level_to_rms(snr: float) -> None:
    noise = np.random.default_rng(0).standard_normal(4 * 48_000).astype(np.float32)
    clean, scaled = at_ratio(bursts(4, 0.05), noise, snr)
    assert 20 * np.log10(0.05 / scaled.std()) == pytest.approx(snr, abs=0.02)
    np.testing.assert_array_equal(clean, bursts(4, 0.05))


def test_loud_mixtures_are_turned_down_together() -> None:
    noise = np.random.default_rng(0).standard_normal(2 * 48_000).astype(np.float32)
    clean, scaled = at_ratio(bursts(2, 0.6), noise, 0)
    assert np.abs(clean + scaled).max() == pytest.approx(0.99, abs=1e-3)
    assert active_level(clean) == pytest.approx(scaled.std(), rel=0.01)


def test_silence_has_no_ratio() -> None:
    silence, tone = np.zeros(48_000, np.float32), bursts(1, 0.1)
    with pytest.raises(ValueError, match="clean is silent"):
        at_ratio(silence, tone, 5)
    with pytest.raises(ValueError, match="noise is silent"):
        at_ratio(tone, silence, 5)
    with pytest.raises(ValueError, match=r"\(48000,\).*\(10,\)"):
        at_ratio(tone, tone[:10], 5)


def test_excerpts_are_pieces_or_loops() -> None:
    x = np.arange(100, dtype=np.float32)
    piece = excerpt(x, 30, np.random.default_rng(3))
    np.testing.assert_array_equal(np.diff(piece), 1)
    loop = excerpt(x, 250, np.random.default_rng(3))
    assert len(loop) == 250
    assert set(np.diff(loop)) == {1.0, -99.0}
    np.testing.assert_array_equal(loop, excerpt(x, 250, np.random.default_rng(3)))
    with pytest.raises(ValueError, match="empty"):
        excerpt(x[:0], 10, np.random.default_rng(3))

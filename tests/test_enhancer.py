"""Promises of the streaming interface, over real speech and over hostile input."""

from collections.abc import Callable

import numpy as np
import pytest

from percepnet import Enhancer, native
from percepnet.framing import HOP, LATENCY, SAMPLE_RATE, Float
from percepnet.mixture import active_level
from percepnet.network import Network

pytestmark = pytest.mark.usefixtures("processing")


@pytest.fixture
def voices(noisy: Float) -> Float:
    """Four different stretches of noisy speech, ``[4, 2 s]``."""
    return np.stack([noisy[k * 110_000 : k * 110_000 + 200 * HOP] for k in range(4)])


@pytest.mark.parametrize("limit", [0, 0.0])
def test_unity_gain_is_the_input_30_ms_later(voices: Float, limit: float) -> None:
    out = Enhancer(streams=4, attenuation_limit_db=limit).process(voices)
    np.testing.assert_allclose(out[:, LATENCY:], voices[:, :-LATENCY], atol=1e-6)


class _Unity(Network):
    """A network that answers gain 1, strength 0: the whole chain runs and must be transparent."""

    def __call__(self, features, state):  # type: ignore[no-untyped-def]
        gain, strength, state = super().__call__(features, state)
        return np.ones_like(gain), np.zeros_like(strength), state


@pytest.mark.parametrize("postfilter", [False, True])
def test_the_chain_at_gain_1_and_strength_0_is_the_input_30_ms_later(voices: Float, postfilter: bool) -> None:
    enhancer = Enhancer(streams=4, postfilter=postfilter)
    enhancer.network = _Unity()
    out = enhancer.process(voices)
    np.testing.assert_allclose(out[:, LATENCY:], voices[:, :-LATENCY], atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_streaming_equals_batch_for_any_chunking(voices: Float, seed: int) -> None:
    batch = Enhancer(streams=4).process(voices)
    rng, enhancer, parts, start = np.random.default_rng(seed), Enhancer(streams=4), [], 0
    while start < voices.shape[1]:
        size = int(rng.integers(1, 12)) * HOP
        parts.append(enhancer.process(voices[:, start : start + size]))
        start += size
    np.testing.assert_allclose(np.concatenate(parts, axis=1), batch, atol=1e-6)


@pytest.mark.parametrize("dry", [4, 6, 60])
def test_turning_off_and_on_is_the_same_for_any_chunking(voices: Float, dry: int) -> None:
    """In any chunks, a stream that is dry forgets, and begins anew when it is turned on, however few hops it was."""

    def turned(chunk: int) -> Float:
        enhancer, parts = Enhancer(streams=4), []
        turns = np.split(voices[:, : (120 + dry) * HOP], [60 * HOP, (60 + dry) * HOP], axis=1)
        for part, enabled in zip(turns, (True, False, True), strict=True):
            for stream in (0, 2):
                enhancer.set(stream, enabled=enabled)
            parts += [enhancer.process(part[:, at : at + chunk]) for at in range(0, part.shape[1], chunk)]
        return np.concatenate(parts, axis=1)

    whole = turned(60 * HOP)
    for chunk in (HOP, 2 * HOP, 20 * HOP):
        np.testing.assert_allclose(turned(chunk), whole, atol=1e-6)


def test_a_control_that_changes_while_a_stream_is_dry_holds_when_it_is_not_for_any_chunking(
    voices: Float,
) -> None:
    def turned(chunk: int) -> Float:
        enhancer, parts = Enhancer(streams=4, attenuation_limit_db=6), []
        for part, enabled in zip(
            np.split(voices[:, : 60 * HOP], 3, axis=1), (True, False, True), strict=True
        ):
            for stream in range(4):
                enhancer.set(stream, enabled=enabled, postfilter=stream < 2 and enabled)
            parts += [enhancer.process(part[:, at : at + chunk]) for at in range(0, part.shape[1], chunk)]
        return np.concatenate(parts, axis=1)

    np.testing.assert_allclose(turned(HOP), turned(4 * HOP), atol=1e-6)


def test_interleaved_calls_equal_separate_ones(voices: Float) -> None:
    """Packets of any subset of the calls, in any order, at any time."""
    separate = np.concatenate([Enhancer(streams=1).process(voice[None]) for voice in voices])
    rng, enhancer = np.random.default_rng(0), Enhancer(streams=4)
    out, sent = np.zeros_like(voices), np.zeros(4, int)
    while (sent < voices.shape[1]).any():
        waiting = np.flatnonzero(sent < voices.shape[1])
        rows = rng.permutation(waiting)[: rng.integers(1, len(waiting) + 1)]
        packets = np.stack([voices[row, sent[row] : sent[row] + 2 * HOP] for row in rows])
        for row, enhanced in zip(rows, enhancer.process(packets, streams=rows), strict=True):
            out[row, sent[row] : sent[row] + 2 * HOP] = enhanced
        sent[rows] += 2 * HOP
    np.testing.assert_allclose(out, separate, atol=1e-6)


def test_reset_equals_new_and_leaves_others_alone(voices: Float) -> None:
    enhancer = Enhancer(streams=2)
    first = enhancer.process(voices[:2])
    enhancer.reset(0)
    second = enhancer.process(voices[:2])
    np.testing.assert_allclose(second[0], first[0], atol=1e-6)
    going_on = Enhancer(streams=1)
    going_on.process(voices[1:2])
    np.testing.assert_allclose(second[1], going_on.process(voices[1:2])[0], atol=1e-6)


def test_noise_goes_and_speech_stays(noisy: Float, clean: Float) -> None:
    padded = np.pad(noisy, (0, -len(noisy) % HOP + 3 * HOP))
    out = Enhancer(streams=1).process(padded[None])[0, LATENCY : LATENCY + len(noisy)]
    pauses = np.convolve(np.abs(clean), np.ones(2 * HOP), "same") == 0
    assert pauses.mean() > 0.1
    assert level(out[pauses]) < level(noisy[pauses]) - 10
    assert level(out - clean) < level(noisy - clean) - 3
    assert abs(level(out[~pauses]) - level(clean[~pauses])) < 3


def test_clean_speech_keeps_its_level(clean: Float) -> None:
    padded = np.pad(clean, (0, -len(clean) % HOP + 3 * HOP))
    out = Enhancer(streams=1).process(padded[None])[0, LATENCY : LATENCY + len(clean)]
    assert abs(20 * np.log10(active_level(out) / active_level(clean))) < 1


def level(samples: Float) -> float:
    return float(10 * np.log10(np.mean(np.square(samples)) + 1e-12))


@pytest.mark.parametrize("gain_db", [-25, -12, 6])
def test_input_level_hardly_matters(noisy: Float, gain_db: float) -> None:
    """Speech at −45 dBFS is treated like speech at −20."""
    voice = noisy[None, : 600 * HOP]
    gain = np.float32(10 ** (gain_db / 20))
    usual = Enhancer(streams=1).process(voice)
    other = Enhancer(streams=1).process(voice * gain) / gain
    assert level(other - usual) < level(usual) - 15
    assert abs(level(other) - level(usual)) < 0.5


def test_the_postfilter_is_told_amplitudes(voices: Float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the input is twice of them, not four times."""
    told = []

    def note(gain: Float, amplitude: Float) -> Float:
        told.append(amplitude)
        return gain

    monkeypatch.setattr("percepnet.resynthesis.envelope_postfilter", note)
    with native.disabled():  # what is compiled is compared with this by itself
        for scale in (1, 2):
            Enhancer(streams=4).process(voices[:, : 20 * HOP] * np.float32(scale))
    single, double = told
    assert single.max() > 0
    np.testing.assert_allclose(double, 2 * single, rtol=1e-4, atol=1e-6)


def test_attenuation_limit_is_kept(noisy: Float) -> None:
    """At a limit of 12 dB the output holds a quarter of the input, and three quarters of the unlimited output."""
    voice = noisy[None, : 200 * HOP]
    free = Enhancer(streams=1).process(voice)
    limited = Enhancer(streams=1, attenuation_limit_db=12).process(voice)
    dry = np.pad(voice, ((0, 0), (LATENCY, 0)))[:, : voice.shape[1]]
    share = np.float32(10 ** (-12 / 20))
    np.testing.assert_allclose(limited, share * dry + (1 - share) * free, atol=2e-6)


class _Counting(Network):
    """Counts the streams that cost a run of the network."""

    rows = 0

    def __call__(self, features, state):  # type: ignore[no-untyped-def]
        self.rows += len(features)
        return super().__call__(features, state)


def test_disabled_is_the_dry_signal_at_the_same_delay_and_costs_no_network(voices: Float) -> None:
    enhancer = Enhancer(streams=4)
    counting = enhancer.network = _Counting()
    enhancer.set(1, enabled=False)
    enhancer.process(voices[:, : 10 * HOP])
    counting.rows = 0
    out = enhancer.process(voices[:, 10 * HOP : 20 * HOP])
    assert counting.rows == 3
    np.testing.assert_allclose(out[1, LATENCY:], voices[1, 10 * HOP : 20 * HOP - LATENCY], atol=1e-6)


def test_toggling_takes_effect_within_100_ms_and_does_not_click() -> None:
    """A tone in noise, toggled ten times: no sample-to-sample step beyond those of the two steady signals."""
    time = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    noise = np.random.default_rng(0).standard_normal(len(time))
    x = (0.3 * np.sin(2 * np.pi * 200 * time) + 0.01 * noise).astype(np.float32)[None]
    steady = Enhancer(streams=1).process(x)
    enhancer, out = Enhancer(streams=1), np.empty_like(x)
    packets = x.shape[1] // (2 * HOP)
    for packet in range(packets):
        if packet % 20 == 10:
            enhancer.set(0, enabled=packet % 40 == 30)
        span = slice(packet * 2 * HOP, (packet + 1) * 2 * HOP)
        out[:, span] = enhancer.process(x[:, span])
    steps = np.abs(np.diff(out, n=2))
    assert steps.max() <= 1.1 * max(np.abs(np.diff(x, n=2)).max(), np.abs(np.diff(steady, n=2)).max())
    dry = np.pad(x, ((0, 0), (LATENCY, 0)))[:, : x.shape[1]]
    off = slice((10 + 5) * 2 * HOP, 30 * 2 * HOP)  # from 100 ms after the first toggle
    np.testing.assert_allclose(out[:, off], dry[:, off], atol=1e-6)


@pytest.mark.parametrize("control", [{"attenuation_limit_db": 6}, {"postfilter": False}])
def test_other_controls_move_without_a_click(noisy: Float, control: dict[str, float]) -> None:
    """Turned in the middle, the output passes from one steady output to the other and never leaves the two."""
    voice = noisy[None, : 200 * HOP]
    before, after = Enhancer(streams=1).process(voice), Enhancer(streams=1, **control).process(voice)  # type: ignore[arg-type]
    enhancer = Enhancer(streams=1)
    turned = [enhancer.process(voice[:, : 100 * HOP])]
    enhancer.set(0, **control)  # type: ignore[arg-type]
    turned.append(enhancer.process(voice[:, 100 * HOP :]))
    out = np.concatenate(turned, axis=1)
    np.testing.assert_allclose(out[:, : 100 * HOP], before[:, : 100 * HOP], atol=1e-6)
    np.testing.assert_allclose(out[:, 107 * HOP :], after[:, 107 * HOP :], atol=1e-5)
    span = slice(100 * HOP, 107 * HOP)
    low, high = np.minimum(before, after)[:, span], np.maximum(before, after)[:, span]
    slack = 0.05 * np.abs(before[:, span]).max()
    assert (out[:, span] > low - slack).all()
    assert (out[:, span] < high + slack).all()


def test_coming_back_from_dry_uses_the_signal_at_hand(voices: Float) -> None:
    """The first enhanced frames after a pause are made of the newest samples, not of those before the pause."""
    enhancer = Enhancer(streams=1, postfilter=False)
    enhancer.network = _Unity()
    x, out = voices[:1], []
    for packet in range(100):
        if packet in (20, 60):
            enhancer.set(0, enabled=packet == 60)
        out.append(enhancer.process(x[:, packet * 2 * HOP : (packet + 1) * 2 * HOP]))
    np.testing.assert_allclose(np.concatenate(out, 1)[:, LATENCY:], x[:, :-LATENCY], atol=1e-6)


HOSTILE: dict[str, Callable[[int], Float]] = {
    "NaN": lambda n: np.full(n, np.nan, np.float32),
    "infinities": lambda n: np.resize(np.array([np.inf, -np.inf], np.float32), n),
    "silence": lambda n: np.zeros(n, np.float32),
    "DC": lambda n: np.ones(n, np.float32),
    "full-scale square": lambda n: np.where(np.arange(n) // 240 % 2, 1, -1).astype(np.float32),
    "enormous": lambda n: np.full(n, 3e38, np.float32),
    "denormal": lambda n: np.full(n, 1e-42, np.float32),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_input_gives_finite_audio_and_is_forgotten_after_a_second(noisy: Float, kind: str) -> None:
    enhancer = Enhancer(streams=2)
    hostile = HOSTILE[kind](SAMPLE_RATE)
    voice = noisy[: 400 * HOP]
    out = enhancer.process(
        np.stack([np.concatenate([hostile, voice]), np.concatenate([voice[:SAMPLE_RATE], voice])])
    )
    assert np.isfinite(out).all()
    fresh = Enhancer(streams=1).process(voice[None])[0]
    recovered = out[0, 2 * SAMPLE_RATE :]  # 1 s after the last hostile sample: the level reference is slow
    reference = fresh[SAMPLE_RATE:]
    assert level(recovered - reference) < level(reference) - 6
    assert abs(level(recovered) - level(reference)) < 3


def test_a_network_that_fails_leaves_the_dry_signal_and_recovers(voices: Float) -> None:
    class Faulty(Network):
        broken = True

        def __call__(self, features, state):  # type: ignore[no-untyped-def]
            gain, strength, state = super().__call__(features, state)
            if self.broken:
                gain[0] = np.nan
                state[0] = np.nan
            return gain, strength, state

    enhancer = Enhancer(streams=2)
    network = enhancer.network = Faulty()
    x = voices[:2]
    out = enhancer.process(x[:, : 50 * HOP])
    np.testing.assert_allclose(out[0, LATENCY:], x[0, : 50 * HOP - LATENCY], atol=1e-6)
    healthy = Enhancer(streams=1).process(x[1:, : 50 * HOP])
    np.testing.assert_allclose(out[1], healthy[0], atol=1e-6)
    assert enhancer.faults[0] > 0 == enhancer.faults[1]
    network.broken = False
    after = enhancer.process(x[:, 50 * HOP :])
    assert np.isfinite(after).all()
    assert level(after[0]) < level(x[0, 50 * HOP :]) - 0.5  # enhanced again


def test_a_step_that_raises_can_be_repeated(voices: Float) -> None:
    """In whichever of its blocks, of which there are more where a stream turns dry."""

    class Sometimes(_Unity):
        calls = 0

        def __call__(self, features, state):  # type: ignore[no-untyped-def]
            self.calls += 1
            if self.calls % 7 == 0:
                raise MemoryError
            return super().__call__(features, state)

    enhancer, out = Enhancer(streams=4), []
    enhancer.network = Sometimes()
    for number, packet in enumerate(np.split(voices, 100, axis=1)):
        enhancer.set(2, enabled=number % 6 < 3)
        try:
            out.append(enhancer.process(packet))
        except MemoryError:
            out.append(enhancer.process(packet))
    np.testing.assert_allclose(np.concatenate(out, 1)[:, LATENCY:], voices[:, :-LATENCY], atol=1e-6)


@pytest.mark.parametrize(
    ("x", "error", "named"),
    [
        (np.zeros((2, 480), np.float64), TypeError, "float64"),
        (np.zeros((2, 480), np.int16), TypeError, "int16"),
        ([[0.0] * 480] * 2, TypeError, "list"),
        (np.zeros((3, 480), np.float32), ValueError, r"\(3, 480\)"),
        (np.zeros((2, 481), np.float32), ValueError, r"\(2, 481\)"),
        (np.zeros(480, np.float32), ValueError, r"\(480,\)"),
    ],
)
def test_wrong_input_is_named(x: Float, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        Enhancer(streams=2).process(x)


@pytest.mark.parametrize("streams", [[2], [-1], [0, 0]])
def test_streams_that_do_not_exist_are_named(streams: list[int]) -> None:
    enhancer = Enhancer(streams=2)
    with pytest.raises(ValueError, match=r"allowed: (0 to 1|each once)"):
        enhancer.process(np.zeros((len(streams), 480), np.float32), streams=streams)


@pytest.mark.parametrize("streams", [[True, False], [0.0], 1])
def test_streams_are_numbers_and_no_mask(streams: list[int]) -> None:
    with pytest.raises(TypeError, match="whole numbers, one for each row"):
        Enhancer(streams=2).process(np.zeros((2, 480), np.float32), streams=streams)


@pytest.mark.parametrize(
    ("limit", "error"),
    [(-1, ValueError), (101, ValueError), (float("nan"), ValueError), ("20", TypeError), (True, TypeError)],
)
def test_limit_out_of_range_is_named(limit: float, error: type[Exception]) -> None:
    enhancer = Enhancer()
    with pytest.raises(error, match="0 to 100"):
        enhancer.set(0, attenuation_limit_db=limit)
    with pytest.raises(error, match="0 to 100"):
        Enhancer(attenuation_limit_db=limit)


def test_other_arguments_out_of_range_are_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="streams is 0"):
        Enhancer(streams=0)
    with pytest.raises(ValueError, match=r"streams is 2\.0"):
        Enhancer(streams=2.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="model is 5; allowed"):
        Enhancer(model=5)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"absent\.onnx"):
        Enhancer(model=tmp_path / "absent.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"broken\.onnx"):
        Enhancer(model=tmp_path / "broken.onnx")


def test_switches_are_booleans() -> None:
    with pytest.raises(TypeError, match="enabled is 'off'"):
        Enhancer().set(0, enabled="off")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="postfilter is None; allowed: True and False"):
        Enhancer(postfilter=None)  # type: ignore[arg-type]


def test_nothing_in_nothing_out() -> None:
    assert Enhancer(streams=2).process(np.zeros((2, 0), np.float32)).shape == (2, 0)
    assert Enhancer(streams=2).process(np.zeros((0, 480), np.float32), streams=[]).shape == (0, 480)

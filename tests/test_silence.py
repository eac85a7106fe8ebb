"""A stream in long silence sleeps: at no cost, unheard, and with the next word whole."""

import numpy as np
import pytest

import percepnet.enhancer as enhancer_module
from percepnet import Enhancer
from percepnet.framing import HOP, LATENCY, SAMPLE_RATE, Float
from percepnet.network import Network

STEP = np.float32(2**-15)  # of 16 bits: the loudest that counts as silence
PULSES = np.where(np.arange(SAMPLE_RATE) % 1920 == 700, STEP, 0).astype(np.float32)  # Opus in a muted call
SILENCES = {
    "zeros": np.zeros(SAMPLE_RATE, np.float32),
    "pulses": PULSES,
    "square wave": np.where(np.arange(SAMPLE_RATE) // 48 % 2, STEP, -STEP),
}


def silence(seconds: float, kind: str = "zeros") -> Float:
    return np.resize(SILENCES[kind], round(seconds * SAMPLE_RATE))


def chunks(x: Float, sizes: list[int]) -> list[Float]:
    """``x [streams, n]`` in pieces of ``sizes`` hops, over and over."""
    ends = np.cumsum(np.resize(sizes, x.shape[1] // HOP)) * HOP
    return np.split(x, ends[ends < x.shape[1]], axis=1)


def level(samples: Float) -> float:
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-30))


class Counting(Network):
    """Counts the hops of all streams that the network was asked about."""

    hops = 0

    def __call__(self, features, state):  # type: ignore[no-untyped-def]
        self.hops += features.shape[0] * features.shape[1]
        return super().__call__(features, state)


@pytest.fixture(autouse=True)
def sleepy(monkeypatch: pytest.MonkeyPatch) -> int:
    """Streams fall asleep after a second, so that tests are short; the fixture is the real number of hops."""
    real = enhancer_module._SLEEPY
    monkeypatch.setattr(enhancer_module, "_SLEEPY", 100)
    return real


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> type[Counting]:
    monkeypatch.setattr("percepnet.enhancer.Network", Counting)
    return Counting


def hops(enhancer: Enhancer) -> int:
    assert isinstance(enhancer.network, Counting)
    return enhancer.network.hops


@pytest.fixture
def first(noisy: Float) -> Float:
    """2 s of noisy speech."""
    return noisy[: 200 * HOP]


def onsets(clean: Float) -> list[int]:
    """Hops in which words begin after a pause, from 2 s on."""
    loud = np.abs(clean[: len(clean) // HOP * HOP]).reshape(-1, HOP).max(1)
    begins = [i for i in range(200, len(loud) - 28) if loud[i] > 0.03 and loud[i - 30 : i - 2].max() < 0.003]
    return [i for i in begins if i - 1 not in begins]


@pytest.fixture
def word(clean: Float) -> Float:
    """1.5 s of speech that begin 20 ms before a word."""
    onset = onsets(clean)[0]
    return clean[(onset - 2) * HOP : (onset + 148) * HOP]


@pytest.mark.parametrize("kind", SILENCES)
def test_a_second_of_silence_is_computed_and_no_more(counting: type[Counting], kind: str) -> None:
    enhancer = Enhancer()
    enhancer.process(silence(3, kind)[None])
    assert hops(enhancer) == 100


@pytest.mark.parametrize("seconds", [1.01, 2.5, 30])
def test_waking_is_as_if_only_a_second_had_been_silent(first: Float, word: Float, seconds: float) -> None:
    """Compared with a stream that has never slept, so nothing of the word is lost that it would have kept."""
    awake = Enhancer().process(np.concatenate([first, silence(1), word])[None])[0]
    slept = Enhancer().process(np.concatenate([first, silence(seconds), word])[None])[0]
    np.testing.assert_allclose(slept[-len(word) :], awake[-len(word) :], atol=1e-6)
    np.testing.assert_allclose(
        slept[: len(first) + SAMPLE_RATE], awake[: len(first) + SAMPLE_RATE], atol=1e-6
    )


@pytest.mark.parametrize("kind", ["zeros", "pulses"])
@pytest.mark.parametrize("seconds", [12, 20])
def test_words_after_sleep_begin_as_loud_as_those_that_were_waited_for(
    noisy: Float, clean: Float, kind: str, seconds: float, sleepy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On average over 16 pairs of noises and words, of which each has 3 dB more or less: their mean scatters by 0.7."""
    monkeypatch.setattr(enhancer_module, "_SLEEPY", sleepy)
    quiet = silence(seconds, kind)
    firsts = [noisy[begin * HOP : (begin + 100) * HOP] for begin in range(0, 1200, 300)]
    said_after = [clean[(at - 2) * HOP : (at + 28) * HOP] for at in onsets(clean)]
    x = np.stack([np.concatenate([first, quiet, word]) for first in firsts for word in said_after])
    words = np.tile(said_after, (len(firsts), 1))
    at = x.shape[1] - words.shape[1] + LATENCY
    beginning = slice(at + 2 * HOP, at + 12 * HOP)  # their first 100 ms
    slept = Enhancer(streams=len(x)).process(x)[:, beginning]
    monkeypatch.setattr(enhancer_module, "_SLEEPY", 10**9)
    waited = Enhancer(streams=len(x)).process(x)[:, beginning]
    said = words[:, 2 * HOP : 12 * HOP]
    assert np.mean([level(s) - level(w) for s, w in zip(slept, waited, strict=True)]) > -1
    # and they are the words
    assert np.mean([level(s - w) - level(w) for s, w in zip(slept, said, strict=True)]) < -6


@pytest.mark.parametrize("kind", SILENCES)
def test_neither_sleep_nor_what_it_spares_is_heard(
    first: Float, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.concatenate([first, silence(4, kind)])[None]
    asleep = slice(len(first) + SAMPLE_RATE + LATENCY, None)
    slept = Enhancer().process(x)[0, asleep]
    monkeypatch.setattr("percepnet.enhancer._SLEEPY", 10**9)
    computed = Enhancer().process(x)[0, asleep]
    for out in (slept, computed):
        assert level(out) < -90
        assert np.abs(out).max() <= 2 * STEP
    assert np.abs(np.diff(slept)).max() <= 2 * STEP + 1e-9  # nor does falling asleep click


@pytest.mark.parametrize("kind", SILENCES)
def test_streaming_equals_batch_through_sleep(first: Float, word: Float, kind: str) -> None:
    turns = [first[: 7 * HOP], silence(1.33, kind), word, silence(1.01, kind), first, silence(2, kind), word]
    x = np.concatenate(turns)[None]
    batch = Enhancer().process(x)
    for sizes in ([2], [1], [3, 1, 7], [40, 99]):
        enhancer = Enhancer()
        out = np.concatenate([enhancer.process(part) for part in chunks(x, sizes)], axis=1)
        np.testing.assert_allclose(out, batch, atol=1e-6)


def test_streams_sleep_for_themselves(
    first: Float, word: Float, noisy: Float, counting: type[Counting]
) -> None:
    """Any subset in any order: each as if it were alone, and what sleeps costs nothing."""
    length = len(first) + 2 * SAMPLE_RATE + len(word)
    x = np.stack(
        [
            np.concatenate([first, silence(2), word]),
            noisy[:length],
            np.concatenate([silence(2), word, first]),
            silence(length / SAMPLE_RATE),
        ]
    )
    alone = [Enhancer() for _ in x]
    expected = np.concatenate([one.process(row[None]) for one, row in zip(alone, x, strict=True)])
    rng, enhancer = np.random.default_rng(0), Enhancer(streams=4)
    out, sent = np.zeros_like(x), np.zeros(4, int)
    while (sent < length).any():
        waiting = np.flatnonzero(sent < length)
        rows = rng.permutation(waiting)[: rng.integers(1, len(waiting) + 1)]
        packets = np.stack([x[row, sent[row] : sent[row] + 2 * HOP] for row in rows])
        for row, enhanced in zip(rows, enhancer.process(packets, streams=rows), strict=True):
            out[row, sent[row] : sent[row] + 2 * HOP] = enhanced
        sent[rows] += 2 * HOP
    np.testing.assert_allclose(out, expected, atol=1e-6)
    assert enhancer.asleep.tolist() == [False, False, False, True]
    assert hops(enhancer) == sum(map(hops, alone)) == 4 * length // HOP - 100 - 100 - (length // HOP - 100)


@pytest.mark.parametrize(
    "sound",
    [np.full(HOP, 1.01 * STEP, np.float32), -1.01 * STEP * np.eye(1, HOP, HOP - 1, dtype=np.float32)[0]],
)
def test_the_least_sound_wakes_and_is_waited_on_for_another_second(
    sound: Float, counting: type[Counting]
) -> None:
    enhancer = Enhancer()
    enhancer.process(np.concatenate([silence(2), sound, silence(2)])[None])
    assert hops(enhancer) == 100 + 1 + 100


def test_nan_counts_as_the_silence_it_becomes(counting: type[Counting]) -> None:
    enhancer = Enhancer()
    out = enhancer.process(np.full((1, 2 * SAMPLE_RATE), np.nan, np.float32))
    assert not out.any()
    assert hops(enhancer) == 100


def test_reset_of_a_sleeping_stream_equals_new(word: Float) -> None:
    enhancer = Enhancer()
    enhancer.process(silence(2)[None])
    assert enhancer.asleep.all()
    enhancer.reset(0)
    assert not enhancer.asleep.any()
    x = np.concatenate([silence(0.5), word])[None]
    np.testing.assert_allclose(enhancer.process(x), Enhancer().process(x), atol=1e-6)


def test_controls_turned_while_asleep_hold_on_waking(first: Float, word: Float) -> None:
    """Disabled, the word is dry from its first sample on; enabled in time, it is as if nothing had been turned."""
    before, rest = np.concatenate([first, silence(1.5)])[None], silence(0.5)[None]
    enhancer = Enhancer()
    enhancer.process(before)
    enhancer.set(0, enabled=False)
    enhancer.process(rest)
    dry = enhancer.process(word[None])[0]
    np.testing.assert_allclose(dry[LATENCY:], word[:-LATENCY], atol=1e-6)

    enhancer = Enhancer()
    enhancer.process(before)
    for enabled in (False, True):
        enhancer.set(0, enabled=enabled)
        enhancer.process(rest)
    untouched = Enhancer()
    untouched.process(before)
    np.testing.assert_allclose(enhancer.process(word[None]), untouched.process(word[None]), atol=1e-6)


def test_a_stream_that_was_dry_before_it_slept_wakes_as_one_that_was_dry(first: Float, word: Float) -> None:
    """What the network remembers is from before the dry time; sleep does not make it any fresher."""
    enhancers = [Enhancer(), Enhancer()]
    for enhancer in enhancers:
        enhancer.set(0, enabled=False)
    enhancers[0].process(first[None])
    for enhancer in enhancers:
        enhancer.process(silence(2)[None])
        enhancer.set(0, enabled=True)
        enhancer.process(silence(0.5)[None])
    heard, fresh = (enhancer.process(word[None]) for enhancer in enhancers)
    np.testing.assert_allclose(heard, fresh, atol=1e-6)


@pytest.mark.parametrize("seconds", [0.7, 2])
def test_steps_around_sleep_that_raise_can_be_repeated(first: Float, word: Float, seconds: float) -> None:
    """Silence that was not heard does not count, and a stream that did not wake can wake again."""

    class Once(Network):
        due = False

        def __call__(self, features, state):  # type: ignore[no-untyped-def]
            if self.due:
                self.due = False
                raise MemoryError
            return super().__call__(features, state)

    enhancer, untroubled = Enhancer(streams=2), Enhancer(streams=2)
    once = enhancer.network = Once()
    for part in (first, silence(seconds), silence(0.2), word):
        x, once.due = part[None], part is not first
        try:
            out = enhancer.process(x, streams=[0])
        except MemoryError:
            out = enhancer.process(x, streams=[0])
        np.testing.assert_allclose(out, untroubled.process(x, streams=[0]), atol=1e-6)
        assert (enhancer.asleep == untroubled.asleep).all()


def test_the_first_word_of_a_call_is_not_held_back(word: Float) -> None:
    """After silence nothing tells how loud the caller will be; the level reference must not take long to learn it."""
    for seconds in (0.5, 1.5, 5):
        out = Enhancer().process(np.concatenate([silence(seconds), word])[None])[0]
        beginning = slice(-len(word) + LATENCY + 2 * HOP, -len(word) + LATENCY + 12 * HOP)  # its first 100 ms
        assert level(out[beginning]) > level(word[2 * HOP : 12 * HOP]) - 6

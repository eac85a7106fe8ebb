"""libopus by ctypes: decodes as PyAV does, recovers from FEC, takes any bytes; where none fits there is none."""

import ctypes
import os
from collections.abc import Iterator

import numpy as np
import pytest
from aiortc.jitterbuffer import JitterFrame
from av import AudioFrame
from opus_packets import PACKET, packets

from percepnet.framing import Float
from server.frames import TIME_BASE
from server.media import libopus
from server.media.libopus import UNIT, LibopusDecoder, OpusError
from server.media.opus import OpusDecoder, OpusEncoder, OpusOptions


@pytest.fixture
def decoder() -> LibopusDecoder:
    library = libopus.library()
    assert library is not None
    return LibopusDecoder(library)


@pytest.fixture
def searching() -> Iterator[None]:
    """The library is looked for anew, and after the test once more."""
    libopus.library.cache_clear()
    yield
    libopus.library.cache_clear()


@pytest.mark.parametrize("bitrate", [16_000, 32_000, 64_000])
def test_it_decodes_as_pyav_does(decoder: LibopusDecoder, clean: Float, bitrate: int) -> None:
    other = OpusDecoder()
    for n, payload in enumerate(packets(clean[:96_000], bitrate=bitrate)):
        (ours,), (theirs,) = (by.decode(JitterFrame(payload, n * PACKET)) for by in (decoder, other))
        assert (ours.pts, ours.sample_rate, ours.layout.name) == (theirs.pts, 48_000, "mono")
        assert np.array_equal(ours.to_ndarray(), theirs.to_ndarray())


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("options", [{}, {"bitrate": 20_000}, {"bitrate": 32_000, "fec": True}])
def test_it_encodes_as_pyav_does_without_its_threads(
    clean: Float, options: dict[str, int], channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = OpusOptions(stereo=channels == 2, **options)  # type: ignore[arg-type]
    ours = [OpusEncoder(chosen) for _ in range(5)]
    monkeypatch.setattr(libopus, "library", lambda: None)
    theirs = OpusEncoder(chosen)
    before = len(os.listdir("/proc/self/task"))
    for n in range(50, 100):
        samples = (clean[n * PACKET :][:PACKET] * 32767).astype(np.int16).repeat(channels)
        frame = AudioFrame.from_ndarray(samples[np.newaxis], "s16", "stereo" if channels == 2 else "mono")
        frame.sample_rate, frame.time_base, frame.pts = 48_000, TIME_BASE, n * PACKET
        sent = [encoder.encode(frame, -20) for encoder in ours]
        if n == 50:
            assert len(os.listdir("/proc/self/task")) == before
        assert sent == [theirs.encode(frame, -20)] * 5


def test_it_reads_no_samples_that_are_not_there() -> None:
    encoder, frame = OpusEncoder(OpusOptions(stereo=True)), AudioFrame("s16", "mono", PACKET)
    frame.sample_rate, frame.time_base, frame.pts = 48_000, TIME_BASE, 0
    with pytest.raises(ValueError, match="s16 in 1 channels at 48000 Hz; allowed: s16 in 2 at 48000"):
        encoder.encode(frame, -20)
    encoder, frame.sample_rate = OpusEncoder(OpusOptions()), 8_000
    with pytest.raises(ValueError, match="s16 in 1 channels at 8000 Hz; allowed: s16 in 1 at 48000"):
        encoder.encode(frame, -20)


def test_fec_brings_a_lost_packet_back(decoder: LibopusDecoder, clean: Float) -> None:
    """What the next packet repeats is far more like the lost one than what can be guessed."""
    likeness: dict[bool, list[float]] = {True: [], False: []}
    for fec in likeness:
        sent = packets(clean, bitrate=32_000, fec=fec)
        whole, lossy = (LibopusDecoder(libopus.library()) for _ in range(2))
        for n, payload in enumerate(sent[:-1]):
            (wanted,) = whole.decode(JitterFrame(payload, 0))
            if n % 5 < 4:
                lossy.decode(JitterFrame(payload, 0))
                continue
            filled, recovered = lossy.fill(PACKET, sent[n + 1], n * PACKET)
            assert (filled.pts, filled.samples) == (n * PACKET, PACKET)
            a, b = wanted.to_ndarray()[0].astype(float), filled.to_ndarray()[0].astype(float)
            if np.std(a) > 300:  # voice
                assert recovered == PACKET * fec
                likeness[fec].append(np.corrcoef(a, b)[0, 1])
    assert len(likeness[True]) > 30
    assert np.median(likeness[True]) > 0.9
    assert np.median(likeness[True]) > np.median(likeness[False]) + 0.2


@pytest.mark.parametrize("samples", [1, 120, 480, 960, 1000, 1920, 5760])
@pytest.mark.parametrize("fec", [False, True])
def test_a_hole_of_any_length_is_filled(
    decoder: LibopusDecoder, clean: Float, samples: int, fec: bool
) -> None:
    sent = packets(clean[48_000:96_000], bitrate=24_000, fec=fec)
    for payload in sent[:30]:
        decoder.decode(JitterFrame(payload, 0))
    filled, recovered = decoder.fill(samples, sent[31], 77)
    assert (filled.pts, filled.samples) == (77, samples)
    assert recovered == (PACKET if fec and samples >= PACKET else 0)


def test_what_is_recovered_ends_where_the_next_packet_begins(clean: Float) -> None:
    """A hole that is no whole number of units long is the end of a longer one."""
    sent = packets(clean[48_000:96_000], bitrate=24_000, fec=True)
    filled = []
    for samples in (1000, 9 * UNIT):
        decoder = LibopusDecoder(libopus.library())
        for payload in sent[:30]:
            decoder.decode(JitterFrame(payload, 0))
        frame, recovered = decoder.fill(samples, sent[31], 0)
        assert recovered == PACKET
        filled.append(frame.to_ndarray()[0])
    assert filled[0].any()
    assert np.array_equal(filled[0], filled[1][-1000:])


def test_any_bytes_are_decoded_or_refused(decoder: LibopusDecoder) -> None:
    random = np.random.default_rng(1)
    refused = 0
    for _ in range(3000):
        data = random.bytes(int(random.integers(1, 60)))
        samples = int(random.integers(1, 5761))
        for attempt in (lambda: decoder.decode(JitterFrame(data, 0)), lambda: decoder.fill(samples, data, 0)):  # noqa: B023
            try:
                attempt()
            except OpusError:
                refused += 1
    assert 0 < refused < 6000


def test_without_a_library_that_fits_there_is_none_and_a_warning(
    searching: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        libopus, "_candidates", lambda: iter(["no-such-library.so", ctypes.util.find_library("c")])
    )
    assert libopus.library() is None
    assert libopus.library() is None
    assert caplog.text.count("no libopus from 1.5 on") == 1


def test_a_library_that_is_too_old_is_not_taken(searching: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libopus, "MADE_FOR", (99, 0))
    assert libopus.library() is None

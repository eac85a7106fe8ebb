"""From packets with holes to audio without: what is recovered, concealed, missing, and what it sounds like."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from aiortc.codecs import CODECS
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from av import AudioFrame
from numpy.typing import NDArray
from opus_packets import PACKET, packets

from percepnet import Enhancer
from percepnet.evaluation import pesq_wb
from percepnet.framing import Float
from percepnet.resampling import resample
from server.frames import CUT, LONGEST_FILL, FrameReader
from server.media import decoding
from server.media.decoding import Decoding
from server.media.jitter import HoleWait
from server.media.jitterbuffer import AudioJitterBuffer
from server.media.libopus import UNIT, LibopusDecoder, library

OPUS, PCMU = (next(c for c in CODECS["audio"] if c.name == name) for name in ("opus", "PCMU"))
G722 = next(c for c in CODECS["audio"] if c.name == "G722")


class Line:
    """A caller's packets through network, jitter buffer and decoder, to packets of 20 ms for the engine."""

    def __init__(self, codec: RTCRtpCodecParameters = OPUS) -> None:
        self.reader = FrameReader()
        self.frames: list[AudioFrame] = []
        self.decoding = Decoding(self.frames.append)
        self.codec = codec
        self.clock = 0.0  # s, at which packets come

    def decode(self, sequence: int, timestamp: int, payload: bytes) -> None:
        self.decoding.decode(self.codec, sequence & 0xFFFF, timestamp & 0xFFFFFFFF, payload, self.clock)

    def carry(self, payloads: list[bytes], arrivals: list[tuple[float, int]], step: int = PACKET) -> Float:
        """Packets that come at those times (s), by number; returns all that goes to the engine."""
        buffer: AudioJitterBuffer[int] = AudioJitterBuffer(HoleWait())
        for now, n in [*sorted(arrivals), (float("inf"), -1)]:
            left = []
            while (deadline := buffer.deadline) is not None and deadline <= now:
                left += buffer.expire(deadline)
            left += buffer.add(n + 65_500 & 0xFFFF, n, now) if n >= 0 else []
            for item in left:
                self.decode(item + 65_500, item * step + (1 << 32) - 48_000, payloads[item])
        return self.heard()

    def heard(self) -> Float:
        found = [packet for frame in self.frames for packet in self.reader.push(frame)]
        assert [packet.time for packet in found] == [n * PACKET for n in range(len(found))]
        return np.concatenate([packet.samples for packet in found])


def lossy(count: int, loss: float, seed: int = 1) -> list[tuple[float, int]]:
    """Packets 0 … count − 1 every 20 ms; that share of them is lost, but not the first and the last."""
    lost = set(random.Random(seed).sample(range(1, count - 1), round(loss * count)))
    return [(n * 0.02, n) for n in range(count) if n not in lost]


@pytest.mark.parametrize("loss", [0.0, 0.01, 0.05, 0.10])
@pytest.mark.parametrize("fec", [False, True])
def test_random_loss_is_concealed_in_proportion_and_nothing_is_missing(
    clean: Float, loss: float, fec: bool
) -> None:
    sent = packets(clean[: 200 * PACKET], fec=fec) * 5
    arrivals = lossy(len(sent), loss)
    line = Line()
    heard = line.carry(sent, arrivals)
    assert len(heard) == len(sent) * PACKET
    audio, lost = line.decoding.audio, len(sent) - len(arrivals)
    assert (audio.missing, audio.undecodable) == (0, 0)
    assert audio.received == len(arrivals) * PACKET
    assert audio.concealed + audio.recovered == lost * PACKET
    assert audio.concealed <= 1.2 * loss * len(heard)
    assert audio.concealed_packets + audio.recovered_packets == lost
    if fec:
        assert audio.recovered >= 0.4 * lost * PACKET  # packets without a voice carry no FEC


def test_jitter_reordering_and_duplicates_change_nothing_that_is_heard(clean: Float) -> None:
    sent = packets(clean[: 300 * PACKET])
    chance = random.Random(2)
    arrivals = [(n * 0.02 + (n > 0) * chance.random() * 0.025, n) for n in range(len(sent))]
    arrivals += [(at + 0.03, n) for at, n in arrivals if chance.random() < 0.1]
    shaken, calm = Line(), Line()
    assert np.array_equal(shaken.carry(sent, arrivals), calm.carry(sent, lossy(len(sent), 0)))
    assert shaken.decoding.audio.concealed == 0


@pytest.mark.parametrize(("loss", "gain"), [(0.05, 0.5), (0.10, 0.5)])
def test_what_is_concealed_sounds_better_than_silence(clean: Float, loss: float, gain: float) -> None:
    sent = packets(clean)
    arrivals = lossy(len(sent), loss, seed=3)
    concealed, calm = Line().carry(sent, arrivals), Line().carry(sent, lossy(len(sent), 0))
    silenced = calm.reshape(-1, PACKET).copy()
    silenced[sorted(set(range(len(sent))) - {n for _, n in arrivals})] = 0
    reference, ours, silent = (
        resample(x[np.newaxis], 48_000, 16_000)[0] for x in (clean[: len(calm)], concealed, silenced.ravel())
    )
    assert pesq_wb(reference, ours) >= pesq_wb(reference, silent) + gain


@pytest.mark.parametrize("codec", [PCMU, G722], ids=lambda codec: codec.name)
def test_other_codecs_are_concealed_too(clean: Float, codec: RTCRtpCodecParameters) -> None:
    line, size = Line(codec), 160
    payloads = [bytes([0x90 + n % 7] * size) for n in range(100)]
    heard = line.carry(payloads, lossy(100, 0.1), step=size)
    assert len(heard) == 100 * PACKET
    audio = line.decoding.audio
    assert audio.concealed + audio.received == 100 * PACKET
    assert audio.concealed > 0


def test_without_libopus_the_same_is_counted_and_the_gaps_are_concealed_further_down(
    clean: Float, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = packets(clean[: 200 * PACKET], fec=True)
    arrivals = lossy(len(sent), 0.1)
    monkeypatch.setattr(decoding, "library", lambda: None)
    line = Line()
    heard = line.carry(sent, arrivals)
    lost = [n for n in range(200) if n not in {n for _, n in arrivals}]
    assert line.decoding.audio.concealed == len(lost) * PACKET == 200 * PACKET - line.decoding.audio.received
    assert len(line.frames) == len(arrivals)
    assert all(np.any(heard[n * PACKET : (n + 1) * PACKET]) for n in lost)


@pytest.mark.parametrize(("gap", "missing"), [(6, 0), (7, 7), (150, 150)])
def test_long_holes_are_missing_and_cost_no_more_than_short_ones(gap: int, missing: int) -> None:
    line, payload = Line(), bytes([31 << 3]) + bytes(range(40))
    for n in [*range(10), *range(10 + gap, 20 + gap)]:
        line.decode(n, n * PACKET, payload)
    audio = line.decoding.audio
    assert (audio.missing, audio.concealed) == (missing * PACKET, (gap - missing) * PACKET)
    found = [packet for frame in line.frames for packet in line.reader.push(frame)]
    assert len(found) <= 20 + LONGEST_FILL // PACKET + 1
    assert found[-1].time == (19 + gap) * PACKET  # what follows is where it was sent


def test_audio_after_a_long_hole_is_not_louder_than_it_was(clean: Float) -> None:
    sent = packets(clean, bitrate=24_000)
    whole = Line()
    for n, payload in enumerate(sent):
        whole.decode(n, n * PACKET, payload)
    peaks = [np.abs(frame.to_ndarray().astype(int)).max() for frame in whole.frames]
    louder = []
    for n in range(60, 600, 7):
        if peaks[n] > 1000:
            line = Line()
            for m in [*range(n - 45, n - 30), n]:
                line.decode(m, m * PACKET, sent[m])
            louder.append(np.abs(line.frames[-1].to_ndarray().astype(int)).max() / peaks[n])
    assert len(louder) > 30
    assert np.percentile(louder, 95) < 1.5  # with the decoder of before, 3


@pytest.mark.parametrize("gap", [3, 20])
def test_a_pause_of_the_sender_is_no_loss(gap: int) -> None:
    line, payload = Line(), bytes([31 << 3]) + bytes(range(40))
    for n in range(20):
        line.decode(n, (n + (n >= 10) * gap) * PACKET, payload)
    audio = line.decoding.audio
    assert (audio.missing, audio.concealed, audio.recovered) == (0, 0, 0)
    assert audio.received == 20 * PACKET


def test_a_hole_in_audio_that_is_not_coded_as_speech_is_left_to_the_reader(clean: Float) -> None:
    for bitrate, frames in ((32_000, 100), (64_000, 99)):
        line = Line()
        for n, payload in enumerate(packets(clean[48_000 : 48_000 + 100 * PACKET], bitrate=bitrate)):
            if n != 50:
                line.decode(n, n * PACKET, payload)
        assert len(line.frames) == frames
        assert line.decoding.audio.concealed == PACKET
        assert len(line.heard()) == 100 * PACKET


def test_a_packet_lost_in_a_pause_is_all_that_is_missing_of_it() -> None:
    line, payload = Line(), bytes([31 << 3]) + bytes(range(40))
    for n in range(10):
        line.decode(n, n * PACKET, payload)
    line.decode(11, 100 * PACKET, payload)
    assert line.decoding.audio.missing == PACKET


@pytest.mark.parametrize("off", [lambda n: n, lambda n: -n, lambda n: 48 * (n % 2), lambda n: -(n % 50 == 9)])
def test_clocks_that_round_are_no_holes(off: Callable[[int], int]) -> None:
    """Timestamps that are a millisecond off, or ever more in small steps, leave the decoder and the timeline alone."""
    rounding, even, payload = Line(), Line(), bytes([9 << 3]) + bytes(range(40))
    for n in range(100):
        rounding.decode(n, n * PACKET + off(n), payload)
        even.decode(n, n * PACKET, payload)
    assert np.array_equal(rounding.heard(), even.heard())


@pytest.mark.parametrize("jump", [-5000, 1 << 31, 61 * 48_000])
def test_a_sender_that_begins_anew_is_appended(jump: int) -> None:
    line, payload = Line(), bytes([31 << 3]) + bytes(range(40))
    for n in range(20):
        line.decode(n if n < 10 else n + 30_000, n * PACKET + (n >= 10) * jump, payload)
    line.decoding.new_source()
    for n in range(20, 30):
        line.decode(n, n * PACKET + 12345, payload)
    assert len(line.heard()) == 32 * PACKET  # with a packet's length to fade from one to the other
    assert line.decoding.audio.concealed == line.decoding.audio.missing == 0


@pytest.mark.parametrize("anew", ["source", "timeline"])
@pytest.mark.parametrize("pause", [0.5, 1.0, 100.0])
def test_who_begins_anew_after_a_pause_is_as_late_as_that(anew: str, pause: float) -> None:
    line, payload, times = Line(), bytes([31 << 3]) + bytes(range(40)), []
    for n in range(20):
        if n == 10:
            line.clock += pause
            if anew == "source":
                line.decoding.new_source()
        line.decode(n, n * PACKET + 777_777_777 * (n >= 10), payload)
        times += [packet.time for packet in line.reader.push(line.frames[-1], line.clock)]
        line.clock += 0.02
    assert times[-1] == 19 * PACKET + round(pause * 48_000)


def test_what_cannot_be_decoded_does_not_swallow_the_pause_before_it() -> None:
    line, payload = Line(), bytes([31 << 3]) + bytes(range(40))
    line.decode(0, 0, payload)
    line.decoding.new_source()
    line.clock = 10.0
    line.decode(5, 777, b"\xff\xff\xff")
    line.clock += 0.02
    line.decode(6, 777 + PACKET, payload)
    assert line.decoding.audio.undecodable == 1
    assert line.decoding.position >= 10 * 48_000 - PACKET
    assert line.decoding.position % UNIT == 0  # or stamps at 8 kHz could not tell it


def test_packets_of_padding_only_use_up_their_numbers(clean: Float) -> None:
    padded, plain = Line(), Line()
    number = 0
    for n, payload in enumerate(packets(clean[48_000:96_000])):
        if n % 5 == 4:
            padded.decode(number, (n - 1) * PACKET, b"")
            number += 1
        padded.decode(number, n * PACKET, payload)
        number += 1
        plain.decode(n, n * PACKET, payload)
    assert np.array_equal(padded.heard(), plain.heard())
    assert padded.decoding.audio == plain.decoding.audio


def test_another_source_begins_without_a_click(clean: Float) -> None:
    line, loud = Line(), packets(clean[96_000 : 96_000 + 40 * PACKET])
    for n in range(40):
        if n == 20:
            line.decoding.new_source()
        line.decode(n, n * PACKET, loud[n] if n < 20 else loud[59 - n])
    heard = line.heard()
    bend = np.abs(np.diff(heard.astype(float), n=2))
    assert bend[20 * PACKET - CUT : 21 * PACKET + CUT].max() <= bend.max() / 2


def test_after_a_short_pause_fec_of_before_it_is_not_heard(clean: Float) -> None:
    line, sent = Line(), packets(clean[48_000:96_000], fec=True, bitrate=24_000)
    for n, payload in enumerate(sent):
        line.decode(n, (n + 2 * (n >= 25)) * PACKET, payload)
    assert line.decoding.audio.recovered == 0
    other = LibopusDecoder(library())
    for payload in sent[:25]:
        other.decode(JitterFrame(payload, 0))
    guessed, _ = other.fill(2 * PACKET, b"", 0)
    assert np.array_equal(line.frames[25].to_ndarray(), guessed.to_ndarray())


def test_packets_of_all_lengths_follow_each_other() -> None:
    line, timestamp, expected = Line(), 0, 0
    for n, (config, samples) in enumerate(
        [(28, 120), (29, 240), (30, 480), (31, 960), (10, 1920), (11, 2880), (31, 960)] * 10
    ):
        if n % 9 != 8:
            line.decode(n, timestamp, bytes([config << 3]) + bytes(range(30)))
        timestamp += samples
        expected += samples
    assert len(line.heard()) == expected // PACKET * PACKET
    assert line.decoding.audio.received + line.decoding.audio.concealed == expected


def test_a_change_of_codec_keeps_the_timeline() -> None:
    line = Line()
    line.decode(0, 0, bytes([31 << 3]) + bytes(range(30)))
    line.codec = PCMU
    line.decode(1, 160, bytes(160))
    line.decode(3, 480, bytes(160))
    assert [frame.sample_rate for frame in line.frames] == [48_000, 8_000, 8_000]
    assert line.heard().shape == (5 * PACKET,)


def test_nothing_a_sender_may_send_is_more_than_undecodable() -> None:
    chance = np.random.default_rng(5)
    line = Line()
    for n in range(500):
        line.codec = [OPUS, OPUS, PCMU, G722][int(chance.integers(4))]
        line.decode(int(chance.integers(1 << 16)), int(chance.integers(1 << 32)), chance.bytes(n % 50))
    audio = line.decoding.audio
    assert audio.received > 0
    assert audio.undecodable > 0
    times = [packet.time for frame in line.frames for packet in line.reader.push(frame)]
    assert times == sorted(set(times))


def test_a_concealed_packet_joins_without_a_step(clean: Float) -> None:
    """The steepest step near the edges of holes is no steeper than near other packets' edges."""
    sent = packets(clean)
    arrivals = lossy(len(sent), 0.1, seed=4)
    heard, calm = Line().carry(sent, arrivals), Line().carry(sent, lossy(len(sent), 0))
    lost = sorted(set(range(len(sent))) - {n for _, n in arrivals})
    edges = [edge * PACKET for n in lost for edge in (n, n + 1)]
    assert len(edges) > 100

    def steepest(x: Float) -> NDArray[np.float64]:
        bend = np.abs(np.diff(x.astype(float), n=2))
        return np.array([bend[edge - CUT : edge + CUT].max() / np.abs(bend).max() for edge in edges])

    assert np.percentile(steepest(heard), 95) <= 1.5 * np.percentile(steepest(calm), 95)


@pytest.mark.parametrize("lost", [5, 100])
def test_the_enhancer_is_itself_again_after_a_hole(noisy: Float, lost: int) -> None:
    sent = packets(noisy[: 350 * PACKET])
    hole = range(100, 100 + lost)
    line, calm = Line(), Line()
    for n, payload in enumerate(sent):
        calm.decode(n, n * PACKET, payload)
        if n not in hole:
            line.decode(n, n * PACKET, payload)
    found = [packet for frame in line.frames for packet in line.reader.push(frame)]
    whole, holed = (
        Enhancer().process(x[np.newaxis])[0]
        for x in (calm.heard(), np.concatenate([packet.samples for packet in found]))
    )
    assert np.isfinite(holed).all()
    bend = np.abs(np.diff(holed, n=2))
    assert bend[: 115 * PACKET].max() <= np.abs(np.diff(whole, n=2)).max()
    late = (len(sent) - 100 - lost - 75) * PACKET  # from 1.5 s after the hole on
    difference = holed[-late:] - whole[-late:]
    assert np.mean(np.square(difference)) < 0.01 * np.mean(np.square(whole[-late:]))

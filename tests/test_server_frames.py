"""Frames of any format to packets of 960 mono samples and back: no sample lost, moved or changed."""

from fractions import Fraction

import numpy as np
import pytest
from av import AudioFrame

from percepnet.framing import LATENCY, Float, Pcm
from server.frames import CUT, PACKET, FrameReader, FrameWriter, Packet, cut

NOISE = np.random.default_rng(1).integers(-20000, 20000, 48_000).astype(np.int16)


TONE_BEND = 8000 / 32768 * (2 * np.pi * 440 / 48_000) ** 2  # second difference of tone() at 48 kHz, at most


def frame(pcm: Pcm, pts: int | None, rate: int = 48_000, layout: str = "mono") -> AudioFrame:
    """A frame of mono ``pcm``, in both channels where the layout is stereo."""
    interleaved = pcm.repeat(2) if layout == "stereo" else pcm
    result = AudioFrame.from_ndarray(interleaved[np.newaxis], format="s16", layout=layout)
    result.sample_rate = rate
    result.time_base = Fraction(1, rate)
    result.pts = pts
    return result


def tone(rate: int, samples: int) -> Pcm:
    return (8000 * np.sin(2 * np.pi * 440 / rate * np.arange(samples))).astype(np.int16)


def joined(packets: list[Packet]) -> Float:
    return np.concatenate([packet.samples for packet in packets])


@pytest.mark.parametrize("layout", ["mono", "stereo"])
@pytest.mark.parametrize("length", [120, 240, 480, 960, 1920, 2880, 777])
def test_every_frame_length_gives_the_same_packets(length: int, layout: str) -> None:
    reader = FrameReader()
    packets = []
    for start in range(0, len(NOISE) - length, length):
        packets += reader.push(frame(NOISE[start : start + length], 5000 + start, layout=layout))
    assert [packet.time for packet in packets] == [5000 + n * PACKET for n in range(len(packets))]
    assert np.array_equal(joined(packets) * 32768, NOISE[: len(packets) * PACKET])


def test_stereo_is_the_mean_of_its_channels() -> None:
    left, right = NOISE[:960], NOISE[960:1920]
    interleaved = np.stack([left, right], axis=1).reshape(1, -1)
    both = AudioFrame.from_ndarray(interleaved, format="s16", layout="stereo")
    both.sample_rate = 48_000
    (packet,) = FrameReader().push(both)
    assert np.allclose(packet.samples, (left.astype(float) + right) / 65536, atol=1e-7)


@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_there_and_back_is_the_same_to_the_bit(layout: str) -> None:
    source = frame(NOISE[:960], 123, layout=layout)
    (packet,) = FrameReader().push(source)
    back = FrameWriter(like=source).frame(packet)
    assert (back.pts, back.sample_rate, back.time_base) == (123, 48_000, Fraction(1, 48_000))
    assert (back.format.name, back.layout.name, back.samples) == ("s16", layout, 960)
    assert np.array_equal(back.to_ndarray(), source.to_ndarray())


def test_what_exceeds_full_scale_is_clipped_and_does_not_wrap() -> None:
    loud = np.linspace(-3, 3, PACKET, dtype=np.float32)
    back = FrameWriter(like=frame(NOISE[:960], 0)).frame(Packet(0, loud)).to_ndarray()[0]
    assert back.min() == -32768
    assert back.max() == 32767
    assert np.all(np.diff(back.astype(int)) >= 0)


@pytest.mark.parametrize("lost", [1, 3, 6])
def test_lost_packets_are_concealed_and_what_follows_keeps_its_time(lost: int) -> None:
    reader = FrameReader()
    packets = reader.push(frame(NOISE[:960], 0)) + reader.push(frame(NOISE[960:1920], (lost + 1) * 960))
    assert [packet.time for packet in packets] == [n * 960 for n in range(lost + 2)]
    assert np.array_equal(packets[-1].samples[CUT:] * 32768, NOISE[960 + CUT : 1920])
    assert np.std(packets[1].samples) == pytest.approx(np.std(packets[0].samples), rel=0.2)


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_a_concealed_gap_in_a_tone_has_no_click_at_any_rate(rate: int) -> None:
    size, sent = rate // 50, tone(rate, rate)
    sent[:size] = 0  # or the tone were the quietest of what was heard, and so the comfort noise
    reader, packets = FrameReader(), []
    for n in [*range(30), *range(31, 50)]:
        packets += reader.push(frame(sent[n * size : (n + 1) * size], n * size, rate))
    assert [packet.time for packet in packets] == [n * PACKET for n in range(50)]
    bend = np.abs(np.diff(joined(packets)[5 * PACKET :], n=2)).max()
    assert bend < 2 * TONE_BEND  # a gap filled with silence has 17 times that


@pytest.mark.parametrize("before", [0, 500])
def test_after_a_long_pause_the_timeline_skips_and_audio_keeps_its_time(before: int) -> None:
    reader = FrameReader()
    pause = 10 * 48_000
    packets = reader.push(frame(NOISE[:before], 0)) if before else []
    packets += reader.push(frame(NOISE[:960], before)) + reader.push(frame(NOISE[960:1920], pause))
    times = [packet.time for packet in packets if packet.in_time]
    assert times == sorted(set(times))
    assert packets[-1].time == pause
    assert np.array_equal(packets[-1].samples[CUT:] * 32768, NOISE[960 + CUT : 1920])
    assert times[-2] == pause - PACKET  # the one that encoders may stamp wrongly
    late = [packet.in_time for packet in packets].count(False)  # what only flushes: nobody is to wait for it
    assert [packet.in_time for packet in packets[-2 - late :]] == [False] * late + [True, True]
    assert late * PACKET >= CUT + LATENCY  # so that nothing of before is left in what comes next
    assert late <= 2 + (before > 0)  # for what is heard next waits for them


def test_a_timeline_that_begins_anew_goes_on_as_time_does() -> None:
    reader = FrameReader()
    reader.push(frame(NOISE[:960], 5_000), 10.0)
    packets = reader.push(frame(NOISE[960:1920], 100), 12.5)
    assert packets[-1].time == 5_000 + round(2.5 * 48_000)


def test_audio_fades_before_the_timeline_skips() -> None:
    sent, reader = tone(48_000, 48_000), FrameReader()
    quiet = frame(np.zeros(960, np.int16), 0)
    packets = (
        reader.push(quiet) + reader.push(frame(sent[:9600], 960)) + reader.push(frame(sent[:960], 480_000))
    )
    assert not packets[-2].samples.any()  # comfort noise as loud as what was quietest
    bend = np.abs(np.diff(joined(packets[1:]), n=2)).max()
    assert bend < 3 * TONE_BEND


def test_a_packet_cut_out_leaves_no_step(clean: Float) -> None:
    packets = list(clean[48_000:].reshape(-1)[: 40 * PACKET].reshape(40, PACKET))
    for _ in range(3):  # one after another, as a full queue does
        dropped = packets.pop(10)
        packets[10] = cut(dropped, packets[10])
    steps = np.abs(np.diff(np.concatenate(packets)))
    assert (
        steps[10 * PACKET - 48 :][: 2 * PACKET].max() <= np.abs(np.diff(clean[48_000:][: 40 * PACKET])).max()
    )
    assert np.array_equal(packets[10][CUT:], clean[48_000 + 13 * PACKET :][CUT:PACKET])


@pytest.mark.parametrize("jump", [-(1 << 32), 1 << 32, -5000, 61 * 48_000])
def test_a_sender_that_starts_a_new_timeline_is_appended_to_the_old(jump: int) -> None:
    reader = FrameReader()
    packets = []
    for n in range(5):
        packets += reader.push(frame(NOISE[:960], n * 960 + (jump if n > 2 else 0)))
    assert [packet.time for packet in packets] == [n * 960 for n in range(5)]


def test_frames_without_pts_follow_each_other() -> None:
    reader = FrameReader()
    packets = [packet for _ in range(3) for packet in reader.push(frame(NOISE[:960], None))]
    assert [packet.time for packet in packets] == [0, 960, 1920]


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100])
def test_other_rates_come_back_in_their_rate_with_a_packet_for_a_frame(rate: int) -> None:
    samples = rate // 50
    sent = tone(rate, rate)
    reader, writer, heard = FrameReader(), None, []
    for n in range(50):
        source = frame(sent[n * samples : (n + 1) * samples], 77 + n * samples, rate)
        writer = writer or FrameWriter(like=source)
        (packet,) = reader.push(source)
        back = writer.frame(packet)
        assert (back.pts, back.sample_rate, back.samples) == (77 + n * samples, rate, samples)
        heard.append(back.to_ndarray()[0])
    # The only delay is that of the two resampling filters: a few ms, and the tone is the tone.
    received = np.concatenate(heard).astype(float)
    middle = received[rate // 2 : rate // 2 + 4 * samples]
    shifts = range(0, rate // 100)
    errors = [np.abs(middle - sent[rate // 2 - s : rate // 2 - s + len(middle)]).max() for s in shifts]
    assert min(errors) < 0.02 * 8000 + 2 * np.pi * 440 / rate * 8000 / 2  # half a sample's slope beside 2 %


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_a_resampler_that_begins_late_leaves_no_hole_in_what_follows(rate: int) -> None:
    """What its filter keeps back is missing once, before the first sample: never between two."""
    samples = rate // 50
    level = np.full(samples, 16_000, np.int16)
    reader, packets = FrameReader(), []
    for n in range(10):
        packets += reader.push(frame(level, n * samples, rate))
    writer = FrameWriter(like=frame(level, 0, rate))
    steady = [Packet(n * PACKET, np.full(PACKET, 16_000 / 32768, np.float32)) for n in range(10)]
    written = np.concatenate([writer.frame(packet).to_ndarray()[0] for packet in steady])
    for heard, begin in ((joined(packets) * 32768, PACKET), (written, samples)):
        first = int(np.argmax(heard > 8_000))
        assert first < begin
        assert heard[first:].min() > 8_000


@pytest.mark.parametrize(("rate", "length"), [(44_100, 1024), (22_050, 1024), (96_000, 1025), (11_025, 333)])
def test_frames_that_are_no_whole_number_of_samples_at_48_khz_leave_no_gaps(rate: int, length: int) -> None:
    sent, reader, packets = tone(rate, rate), FrameReader(), []
    for start in range(0, rate - length, length):
        packets += reader.push(frame(sent[start : start + length], 77 + start, rate))
    assert set(np.diff([packet.time for packet in packets])) == {PACKET}
    bend = np.abs(np.diff(joined(packets)[5 * PACKET :], n=2)).max()  # a gap of one sample would be a corner
    assert bend == pytest.approx(TONE_BEND, rel=0.1)


def test_a_change_of_format_keeps_the_timeline() -> None:
    reader = FrameReader()
    packets = reader.push(frame(NOISE[:960], 0, layout="stereo"))
    packets += reader.push(frame(tone(8_000, 160), 160, 8_000))
    packets += reader.push(frame(NOISE[960:1920], 1920))
    assert [packet.time for packet in packets] == [0, 960, 1920]
    assert np.array_equal(packets[2].samples * 32768, NOISE[960:1920])

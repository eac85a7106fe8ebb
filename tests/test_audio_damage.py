"""What files have that is not as it should be: gaps, clocks that jump, odd labels, damage."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from percepnet.cli.audio_files import load, read, reading
from percepnet.cli.audio_writing import write
from percepnet.framing import Float


def film(path: Path, spoken: Float, times: list[int]) -> None:
    """3 s of a picture, and of ``spoken`` frames of 20 ms in Opus at these times, in ms."""
    with av.open(path, "w") as container:
        video, audio = container.add_stream("mpeg4", rate=10), container.add_stream("libopus", rate=48_000)
        audio.layout = "mono"
        video.width = video.height = 16
        for n in range(30):
            picture = av.VideoFrame(16, 16, "yuv420p")
            picture.pts, picture.time_base = n, Fraction(1, 10)
            container.mux(video.encode(picture))
        for n, time in enumerate(times):
            frame = av.AudioFrame.from_ndarray(
                spoken[None, n * 960 : (n + 1) * 960], format="flt", layout="mono"
            )
            frame.sample_rate, frame.pts = 48_000, n * 960
            for packet in audio.encode(frame):
                packet.pts = packet.dts = time
                packet.time_base = Fraction(1, 1000)
                container.mux(packet)


def test_gaps_and_late_beginnings_of_a_film_are_silence(tmp_path: Path, clean: Float) -> None:
    spoken = np.ascontiguousarray(clean[48_000:96_000])
    steady = [20 * n for n in range(50)]
    film(tmp_path / "whole.mkv", spoken, steady)
    film(tmp_path / "late.mkv", spoken, [time + 1000 for time in steady])
    film(tmp_path / "gap.mkv", spoken, [time + 500 * (time >= 400) for time in steady])
    whole, late, gap = (load(tmp_path / f"{name}.mkv").samples[0] for name in ("whole", "late", "gap"))
    assert np.array_equal(late, np.pad(whole, (late.size - whole.size, 0)))
    assert late.size - whole.size == pytest.approx(48_000, abs=960)
    silence = np.flatnonzero(gap[9600:] != 0)  # of the speech that goes on
    assert gap.size - whole.size == pytest.approx(24_000, abs=960)
    assert np.array_equal(gap[-24_000:], whole[-24_000:])
    assert silence.size


@pytest.mark.parametrize("held", [60, 150, 300])
def test_packets_that_were_held_up_and_catch_up_are_no_gap(tmp_path: Path, clean: Float, held: int) -> None:
    """Files that are stamped as packets come."""
    spoken = np.ascontiguousarray(clean[: 2 * 48_000])
    steady = [20 * n for n in range(100)]
    late: list[int] = []
    for time in steady:
        stamp = max(time, 500 + held) if 500 <= time < 500 + held else time
        late.append(max(stamp, late[-1] + 1) if late else stamp)
    film(tmp_path / "steady.mkv", spoken, steady)
    film(tmp_path / "late.mkv", spoken, late)
    steadily, lately = (load(tmp_path / f"{name}.mkv").samples for name in ("steady", "late"))
    assert np.array_equal(lately, steadily)


def test_a_long_gap_takes_no_memory_and_a_late_beginning_may_be_longer(tmp_path: Path, clean: Float) -> None:
    spoken = np.ascontiguousarray(clean[:48_000])
    film(tmp_path / "x.mkv", spoken, [20 * n + 580_000 * (n >= 25) for n in range(50)])
    film(tmp_path / "y.mkv", spoken, [20 * n + 700_000 for n in range(50)])
    film(tmp_path / "z.mkv", spoken, [20 * n + 700_000 * (n >= 25) for n in range(50)])
    for name, seconds in (("x", 581), ("y", 701), ("z", 701)):
        with reading(tmp_path / f"{name}.mkv") as track:
            lengths = [block.shape[1] for block in track.blocks]
        assert sum(lengths) == pytest.approx(seconds * 48_000, abs=2000)
        assert max(lengths) <= 48_000


def test_a_clock_that_jumps_further_than_a_file_can_last_is_no_gap(
    tmp_path: Path, clean: Float, caplog: pytest.LogCaptureFixture
) -> None:
    jump = 13 * 3_600_000
    film(
        tmp_path / "x.mkv",
        np.ascontiguousarray(clean[:48_000]),
        [20 * n + jump * (n >= 25) for n in range(50)],
    )
    with reading(tmp_path / "x.mkv") as track:
        assert sum(block.shape[1] for block in track.blocks) == pytest.approx(48_000, abs=2000)
    assert "its clock jumps by +46800" in caplog.text


@pytest.mark.parametrize(
    ("channels", "mask", "layout"), [(1, 1, "mono"), (1, 8, "mono"), (2, 0x30, "stereo")]
)
def test_one_or_two_channels_may_be_anywhere(
    channels: int, mask: int, layout: str, tmp_path: Path, clean: Float
) -> None:
    """As in WAVE_FORMAT_EXTENSIBLE, of stems that were taken apart."""
    pcm = np.rint(clean[: channels * 4800] * 32767).astype("<i2")
    form = struct.pack(
        "<HHIIHHHHIH", 0xFFFE, channels, 48_000, 96_000 * channels, 2 * channels, 16, 22, 16, mask, 1
    )
    form += bytes.fromhex("000000001000800000aa00389b71")
    chunks = b"WAVE" + b"fmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", pcm.nbytes) + pcm.tobytes()
    (tmp_path / "x.wav").write_bytes(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    samples, _, found, _ = load(tmp_path / "x.wav")
    assert found == layout
    assert np.array_equal(np.rint(samples.T * 32768).ravel(), pcm)


def encode(path: Path, codec: str, spoken: Float) -> None:
    """Mono at 48 kHz in a codec that ``write`` has not."""
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        for start in range(0, len(spoken) - len(spoken) % 1536, 1536):
            frame = av.AudioFrame.from_ndarray(
                spoken[None, start : start + 1536], format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = 48_000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_damage_for_which_ffmpeg_has_only_a_number_is_left_out(
    tmp_path: Path, clean: Float, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.ac3"
    encode(path, "ac3", clean[:96_000])
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 512] = np.random.default_rng(1).bytes(512)
    path.write_bytes(content)
    assert read(path)[0].shape[1] > 1.8 * 48_000
    assert "a.ac3 is damaged in " in caplog.text


def test_a_stream_that_begins_late_in_a_transport_stream_ends_nothing(tmp_path: Path, clean: Float) -> None:
    path = tmp_path / "a.ts"
    encode(path, "aac", clean[:96_000])
    whole = read(path)[0].shape[1]
    content = bytearray(path.read_bytes())
    begins = [
        at for at in range(0, len(content), 188) if content[at + 1] & 0x5F == 0x41 and content[at + 2] == 0
    ]
    content[begins[-1] + 2] = 0xAC  # of the packet's identifier
    path.write_bytes(content)
    assert read(path)[0].shape[1] > whole / 2


def test_what_is_damaged_is_left_out_and_told(
    tmp_path: Path, clean: Float, caplog: pytest.LogCaptureFixture
) -> None:
    x = clean[None, : 4 * 48_000]
    for suffix in (".flac", ".mp3", ".m4a"):
        path = tmp_path / f"a{suffix}"
        write(path, x, 48_000)
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 300] = b"\x55" * 300
        path.write_bytes(content)
        whole = read(path)[0]
        assert whole.shape[1] > 3 * 48_000
    cut = tmp_path / "cut.flac"
    write(cut, x, 48_000)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 6 // 10])
    found = read(cut)[0]
    assert found.shape[1] > 48_000
    assert np.abs(found - x[:, : found.shape[1]]).max() < 1e-4
    assert "a.m4a is damaged in " in caplog.text

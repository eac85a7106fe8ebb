import errno
import os
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.testing import assert_allclose

from percepnet.cli import audio_writing
from percepnet.cli.audio_files import _told, audio_files, load, no_places, read
from percepnet.cli.audio_writing import FORMATS, write, writing
from percepnet.framing import Float

LOSSLESS = [
    (".wav", 16),
    (".wav", 24),
    (".wav", 32),
    (".flac", 16),
    (".flac", 24),
    (".aiff", 16),
    (".aiff", 24),
]
LOSSY = [".opus", ".ogg", ".mp3", ".m4a"]


def chirp(channels: int, rate: int, samples: int) -> np.ndarray:
    time = np.arange(samples) / rate
    rows = [0.4 * np.sin(2 * np.pi * (200 + 150 * time + 90 * row) * time) for row in range(channels)]
    return np.stack(rows).astype(np.float32)


@pytest.mark.parametrize(("suffix", "bits"), LOSSLESS)
@pytest.mark.parametrize(("channels", "rate"), [(1, 48_000), (2, 44_100), (6, 11_025)])
def test_lossless_files_return_what_was_written(
    tmp_path: Path, suffix: str, bits: int, channels: int, rate: int
) -> None:
    x = chirp(channels, rate, rate + 37)
    write(tmp_path / f"x{suffix}", x, rate, bits=bits)
    y, found = read(tmp_path / f"x{suffix}")
    assert found == rate
    assert y.shape == x.shape
    assert y.dtype == np.float32
    assert np.abs(y - x).max() <= (0 if bits == 32 else 2.0 ** (1 - bits))


@pytest.mark.parametrize("layout", ["mono", "stereo", "3.0", "quad", "5.0", "5.1", "5.1(side)", "6.1", "7.1"])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".opus"])
def test_channels_stay_in_their_places(tmp_path: Path, suffix: str, layout: str) -> None:
    x = chirp(av.AudioLayout(layout).nb_channels, 48_000, 48_000)
    path = tmp_path / f"12:30{suffix}"  # what is before a colon is a protocol to FFmpeg
    write(path, x, 48_000, layout=layout)
    y, _, found, _ = load(path)
    assert found == ("5.1" if (suffix, layout) == (".opus", "5.1(side)") else layout)
    heard = [np.abs(np.corrcoef(row, y)[0, 1:]).argmax() for row in x]
    assert heard == list(range(len(x)))


@pytest.mark.parametrize("channels", [3, 8, 16, 9, 18, 64])
def test_channels_without_places_are_read_and_written(tmp_path: Path, channels: int) -> None:
    pcm = np.random.default_rng(0).integers(-30_000, 30_000, (480, channels), np.int16)
    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(pcm.tobytes())
    x = read(tmp_path / "x.wav")[0]
    np.testing.assert_array_equal(x, pcm.T / np.float32(32768))
    write(tmp_path / "y.wav", x, 48_000)
    np.testing.assert_array_equal(read(tmp_path / "y.wav")[0], x)


@pytest.mark.parametrize("channels", [3, 4, 6, 7, 8])
@pytest.mark.parametrize("suffix", [".opus", ".ogg", ".m4a", ".flac"])
def test_channels_without_places_stay_apart(tmp_path: Path, suffix: str, channels: int) -> None:
    time = np.arange(48_000) / 48_000
    tones = np.exp(-2j * np.pi * (400 + 110 * np.arange(channels)[:, None]) * time)
    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(np.rint(3000 * tones.imag).astype(np.int16).T.tobytes())
    samples, rate, layout, _ = load(tmp_path / "x.wav")
    assert layout == no_places(channels)
    write(tmp_path / f"y{suffix}", samples, rate, layout=layout)
    found = load(tmp_path / f"y{suffix}").samples[:, :48_000]
    amplitudes = 2 * np.abs(found @ tones[:, : found.shape[1]].T) / found.shape[1] * 32768 / 3000
    np.testing.assert_allclose(amplitudes, np.eye(channels), atol=0.05)


def test_ambisonics_are_refused_by_name_where_they_have_no_place(tmp_path: Path) -> None:
    x = chirp(4, 48_000, 48_000)
    write(tmp_path / "x.flac", x, 48_000, layout="ambisonic 1")
    for suffix in (".opus", ".m4a"):
        with pytest.raises(ValueError, match="no place for ambisonic 1"):
            write(tmp_path / f"x{suffix}", x, 48_000, layout="ambisonic 1")


@pytest.mark.parametrize(("channels", "rate"), [(2, 48_000), (1, 44_100)])
def test_a_recording_that_changes_on_the_way_goes_on_as_it_began(
    tmp_path: Path, channels: int, rate: int
) -> None:
    one, other = tmp_path / "one.mp3", tmp_path / "other.mp3"
    write(one, chirp(1, 48_000, 48_000), 48_000)
    write(other, chirp(channels, rate, 2 * rate), rate)
    both = tmp_path / "both.mp3"
    both.write_bytes(one.read_bytes() + other.read_bytes())
    samples, found, layout, _ = load(both)
    assert (len(samples), layout) == (1, "mono")
    assert samples.shape[1] == pytest.approx(3 * found, abs=0.1 * found)
    for second in range(3):  # of the chirps, the last second is 650 to 800 Hz
        spectrum = np.abs(np.fft.rfft(samples[0, second * found :][:found]))
        assert 200 < np.argmax(spectrum) < 850


@pytest.mark.parametrize("suffix", LOSSY)
@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_lossy_files_keep_time_and_sound(tmp_path: Path, suffix: str, rate: int) -> None:
    x = chirp(2, rate, rate + 37)
    write(tmp_path / f"x{suffix}", x, rate)
    y, found = read(tmp_path / f"x{suffix}")
    # AAC fills its last frame
    assert y.shape[1] / found == pytest.approx(x.shape[1] / rate, abs=1_024 / rate)
    if found == rate:
        part = slice(rate // 10, rate - rate // 10)
        assert np.corrcoef(x[0, part], y[0, part])[0, 1] > 0.999


def test_every_format_is_tested() -> None:
    assert {suffix for suffix, _ in LOSSLESS} | set(LOSSY) == set(FORMATS)


def test_samples_past_full_scale_are_clipped_not_wrapped(tmp_path: Path) -> None:
    write(tmp_path / "x.wav", np.array([[2.0, -2.0] * 500], np.float32), 48_000)
    y, _ = read(tmp_path / "x.wav")
    assert y.max() > 0.99
    assert y.min() < -0.99
    np.testing.assert_array_equal(np.sign(y[0]), [1, -1] * 500)


def test_empty_recordings_are_files_too(tmp_path: Path) -> None:
    write(tmp_path / "x.wav", np.zeros((2, 0), np.float32), 16_000)
    y, rate = read(tmp_path / "x.wav")
    assert y.shape == (2, 0)
    assert rate == 16_000


def test_errors_name_file_and_choice(tmp_path: Path) -> None:
    x = np.zeros((1, 480), np.float32)
    with pytest.raises(ValueError, match=r"x\.xyz: cannot write \.xyz; allowed are \.wav, \.flac"):
        write(tmp_path / "x.xyz", x, 48_000)
    with pytest.raises(ValueError, match=r"x\.flac: .* 32 bits; allowed are 16 and 24"):
        write(tmp_path / "x.flac", x, 48_000, bits=32)
    with pytest.raises(ValueError, match=r"x\.mp3: 3 channels; allowed are 1 to 2"):
        write(tmp_path / "x.mp3", np.zeros((3, 480), np.float32), 48_000)
    with pytest.raises(FileNotFoundError, match=r"nothing\.wav"):
        read(tmp_path / "nothing.wav")
    (tmp_path / "text.wav").write_text("this is no audio at all\n" * 100)
    with pytest.raises(ValueError, match=r"text\.wav"):
        read(tmp_path / "text.wav")
    assert [path.name for path in tmp_path.iterdir()] == ["text.wav"]  # nothing half-written


def test_directories_are_walked(tmp_path: Path) -> None:
    for name in ("b.WAV", "a/c.flac", "notes.txt", ".hidden/d.wav", "out/e.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = audio_files(tmp_path, without=tmp_path / "out")
    assert [path.as_posix() for path in found] == ["a/c.flac", "b.WAV"]
    with pytest.raises(ValueError, match="no audio files"):
        audio_files(tmp_path / "a", without=tmp_path)


def test_links_are_followed_as_far_as_they_lead_to_something_new(tmp_path: Path) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "real/deep/a.wav").touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real/again").symlink_to(folder)
    (folder / "own").mkdir()
    (folder / "own/b.wav").touch()
    (folder / "also").symlink_to("own")
    assert [path.as_posix() for path in audio_files(folder)] == ["link/deep/a.wav", "own/b.wav"]


def test_tags_that_are_not_utf_8_are_those_of_latin_1(tmp_path: Path) -> None:
    write(tmp_path / "x.wav", np.zeros((1, 480), np.float32), 48_000, tags={"title": "Gespr##ch"})
    recording = (tmp_path / "x.wav").read_bytes()
    (tmp_path / "old.wav").write_bytes(recording.replace(b"Gespr##ch", "Gespräch ".encode("latin-1")))
    assert load(tmp_path / "old.wav").tags["title"].strip() == "Gespräch"
    assert _told("Gespr\udce4ch") == "Gespräch"  # as PyAV gives it from 19 on
    assert _told("Gespräch") == "Gespräch"


def test_what_is_written_anew_keeps_its_place_and_who_may_read_it(tmp_path: Path) -> None:
    x = np.zeros((1, 480), np.float32)
    write(tmp_path / "x.wav", x, 48_000)
    (tmp_path / "x.wav").chmod(0o600)
    (tmp_path / "link.wav").symlink_to("x.wav")
    write(tmp_path / "link.wav", x + 0.5, 48_000)
    assert (tmp_path / "link.wav").is_symlink()
    assert (tmp_path / "x.wav").stat().st_mode & 0o777 == 0o600
    assert read(tmp_path / "x.wav")[0].max() == 0.5
    longest = tmp_path / f"{'é' * 124}.wav"
    write(longest, x, 48_000)
    assert longest.exists()


def test_a_file_that_may_not_be_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.zeros((1, 480), np.float32)
    write(tmp_path / "x.wav", x, 48_000)
    before = (tmp_path / "x.wav").read_bytes()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as for others than root
    with pytest.raises(PermissionError, match=r"x\.wav"):
        write(tmp_path / "x.wav", x + 0.5, 48_000)
    assert (tmp_path / "x.wav").read_bytes() == before
    write(tmp_path / "y.wav", x, 48_000)


def test_only_files_are_replaced(tmp_path: Path) -> None:
    """As root it was /dev/null that a link took away."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "link.wav").symlink_to("pipe")
    for name in ("folder.wav", "link.wav"):
        with pytest.raises(ValueError, match=rf"{name} is there and no file; allowed are files"):
            write(tmp_path / name, np.zeros((1, 480), np.float32), 48_000)
    assert (tmp_path / "pipe").is_fifo()
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "folder.wav", "link.wav"}


def test_a_folder_that_may_not_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        write(tmp_path / name / "x.wav", np.zeros((1, 480), np.float32), 48_000)
    scandir = os.scandir

    def refused(path: str) -> object:  # as for others than root
        if Path(path).name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert audio_files(tmp_path) == [Path("a/x.wav")]
    assert f"{tmp_path / 'b'} is passed over: Permission denied" in caplog.text


def test_wav_files_beyond_4_gb_say_how_long_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_writing, "LARGE", 1000)
    x = np.linspace(-0.5, 0.5, 960, dtype=np.float32).reshape(1, -1)
    write(tmp_path / "x.wav", x, 48_000)
    begin = (tmp_path / "x.wav").read_bytes()[:64]
    assert begin[:4] == b"RIFF"  # it is not so large
    assert b"JUNK" in begin  # room for what makes it RF64 (EBU Tech 3306), if it becomes so
    assert_allclose(read(tmp_path / "x.wav")[0], x, atol=2**-15)
    with pytest.raises(ValueError, match=r"x\.aiff: \.aiff holds less than 4 GB"):
        write(tmp_path / "x.aiff", x, 48_000)


def test_files_that_become_large_say_so_or_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the length is not known when they are begun."""
    block = np.zeros((1, 480), np.float32)
    with writing(tmp_path / "small.wav", 1, 48_000) as add:
        add(block)
    assert (tmp_path / "small.wav").read_bytes()[:4] == b"RIFF"
    monkeypatch.setattr(audio_writing, "LARGE", 1000)
    with (
        pytest.raises(ValueError, match="less than 4 GB"),
        writing(tmp_path / "x.aiff", 1, 48_000) as add,
    ):
        add(np.concatenate([block, block], axis=1))
    assert [path.name for path in tmp_path.iterdir()] == ["small.wav"]


def test_a_codec_that_cannot_be_decoded_is_named(tmp_path: Path, clean: Float) -> None:
    path = tmp_path / "odd.wav"
    write(path, clean[None, :48_000], 48_000)
    content = bytearray(path.read_bytes())
    format_tag = content.index(b"fmt ") + 8
    content[format_tag : format_tag + 2] = b"\x34\x12"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"odd.wav: its audio is of a codec"):
        load(path)


@pytest.mark.parametrize("suffix", [".flac", ".mp3", ".m4a", ".ogg", ".opus"])
def test_tags_are_carried(tmp_path: Path, clean: Float, suffix: str) -> None:
    path = tmp_path / f"tagged{suffix}"
    write(path, clean[None, :48_000], 48_000, tags={"title": "Interview 7", "artist": "Ann"})
    tags = {name.lower(): text for name, text in load(path).tags.items()}
    assert (tags["title"], tags["artist"]) == ("Interview 7", "Ann")


def test_no_samples_are_written_only_where_they_can_be_read_again(tmp_path: Path) -> None:
    for suffix, form in FORMATS.items():
        path = tmp_path / f"empty{suffix}"
        if form.may_be_empty:
            write(path, np.zeros((1, 0), np.float32), 48_000)
            assert load(path).samples.shape == (1, 0)
        else:
            with pytest.raises(ValueError, match="without samples"):
                write(path, np.zeros((1, 0), np.float32), 48_000)
            assert not path.exists()

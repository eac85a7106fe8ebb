"""Folders of recordings to train on."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from percepnet.cli import main
from percepnet.cli.audio_files import read_mono
from percepnet.cli.audio_writing import write
from percepnet.training import corpus
from percepnet.training.corpus import Corpus, scan


def test_a_cache_of_other_recordings_is_refused(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    assert len(Corpus(folder, tmp_path / "cache", "train").speech) == 1
    with (folder / "manifest.csv").open("a") as manifest:
        manifest.write("\nclean.flac,speech,train,7000")
    with pytest.raises(ValueError, match=r"has other recordings than when .*cache was made"):
        Corpus(folder, tmp_path / "cache", "train")


def test_a_file_that_cannot_be_read_is_left_out_and_told(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    with (folder / "manifest.csv").open("a") as manifest:
        manifest.write("\nempty.wav,speech,train,7000")
    (folder / "empty.wav").touch()
    for _ in range(2):  # decoded, and from the cache
        assert len(Corpus(folder, tmp_path / "cache", "train").speech) == 1
    assert caplog.text.count("empty.wav is left out: ") == 1


def test_runs_that_begin_at_once_may_share_a_cache(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that decodes truncated the file that another had mapped, which died of SIGBUS."""
    cache, decode_all = tmp_path / "cache", corpus._decode_all

    def late(*arguments: Path) -> None:
        monkeypatch.setattr(corpus, "_decode_all", decode_all)
        size = Corpus(data, cache, "train").samples.nbytes

        def reading(path: Path) -> NDArray[np.int16]:
            assert (cache / "corpus.i16").stat().st_size == size
            return read_mono(path)

        monkeypatch.setattr(corpus, "read_mono", reading)
        decode_all(*arguments)

    monkeypatch.setattr(corpus, "_decode_all", late)
    assert len(Corpus(data, cache, "train").speech) == 1
    assert {path.name for path in cache.iterdir()} == {"corpus.i16", "corpus.csv", "corpus.folder"}


def test_a_decoding_that_is_interrupted_leaves_nothing_behind(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path) -> NDArray[np.int16]:
        raise KeyboardInterrupt

    monkeypatch.setattr(corpus, "read_mono", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Corpus(data, tmp_path / "cache", "train")
    assert not [*(tmp_path / "cache").iterdir()]


def test_a_recording_may_have_any_name(tmp_path: Path) -> None:
    """Also one that is no UTF-8."""
    for kind, name in (("speech", b"M\xfcller.wav"), ("speech", "Müller.wav".encode()), ("noise", b"x.wav")):
        path = tmp_path / "data" / kind / os.fsdecode(name)
        write(path, np.zeros((1, 4800), np.float32), 48_000)
    found = {Path(recording.file).name for recording in scan(tmp_path / "data")}
    assert found == {os.fsdecode(b"M\xfcller.wav"), "Müller.wav", "x.wav"}
    for _ in range(2):  # made, and read again
        Corpus(tmp_path / "data", tmp_path / "cache", "train")


def test_folders_without_a_manifest_are_scanned(tmp_path: Path) -> None:
    for kind in ("speech", "noise"):
        (tmp_path / kind).mkdir()
        for number in range(60):
            (tmp_path / kind / f"{number}.wav").touch()
    found = scan(tmp_path)
    held_out = [r for r in found if r.split == "valid"]
    assert len(found) == 120
    assert 0 < len(held_out) < 20
    assert scan(tmp_path) == found


def test_a_folder_with_one_recording_is_told_before_anything_is_decoded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("speech", "noise"):
        write(tmp_path / kind / "one.flac", np.zeros((1, 48_000), np.float32), 48_000)
    folders = ["--data", str(tmp_path), "--run", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]
    assert main(["train", *folders, "--preset", "toy"]) == 1
    assert re.search(r"has no recording of (speech|noise) in the split valid; two", capsys.readouterr().err)
    assert not (tmp_path / "cache").exists()


def test_a_folder_without_noise_is_named(tmp_path: Path) -> None:
    (tmp_path / "speech").mkdir()
    (tmp_path / "speech" / "a.wav").touch()
    with pytest.raises(ValueError, match="no noise"):
        scan(tmp_path)


def test_a_manifest_as_a_spreadsheet_writes_it_is_read_and_a_wrong_one_named(tmp_path: Path) -> None:
    rows = "a.wav,speech,train,7000\r\nb.wav,noise,train,20000\r\n"
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\ufefffile,kind,split,bandwidth_hz\r\n" + rows, encoding="utf-8")
    assert [r.bandwidth for r in scan(tmp_path)] == [7000, 20000]
    manifest.write_text("file,kind,split,bandwidth\n" + rows)
    with pytest.raises(ValueError, match=r"manifest\.csv has no column bandwidth_hz; wanted: file, kind"):
        scan(tmp_path)
    for row, told in {
        "c.wav,noise,train,": "bandwidth_hz is ''",
        "c.wav,noise,train,nan": "bandwidth_hz is 'nan'",
        "c.wav,noise,train,-5": "bandwidth_hz is '-5'",
        "c.wav,Speech,train,8000": "kind is 'Speech'; allowed: speech, noise",
        "c.wav,noise,validation,8000": "split is 'validation'; allowed: train, valid",
    }.items():
        manifest.write_text(f"file,kind,split,bandwidth_hz\n{rows}{row}\n")
        with pytest.raises(ValueError, match=rf"manifest\.csv, line 4: {told}"):
            scan(tmp_path)

"""What ``percepnet train``, ``export`` and ``mixtures`` say to wrong options and leave behind."""

import argparse
import shutil
import signal
from pathlib import Path

import av
import pytest
import torch

from percepnet.cli import main
from percepnet.cli.audio_writing import _Encoder
from percepnet.framing import SAMPLE_RATE
from percepnet.training.arguments import add_arguments, settle
from percepnet.training.topologies import TOPOLOGIES


def test_a_run_of_another_topology_is_not_gone_on_with(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    state = {"topology": TOPOLOGIES["full"].as_dict()}
    torch.save(state, tmp_path / "run" / "checkpoint.pt")
    command = [
        "train",
        "--data",
        str(data),
        "--run",
        str(tmp_path / "run"),
        "--cache",
        str(tmp_path / "cache"),
    ]
    assert main([*command, "--preset", "toy"]) == 1


@pytest.mark.parametrize("content", [b"", b"damaged", b"PK\x03\x04"])
def test_a_run_whose_checkpoint_is_damaged_is_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(content)
    folders = ["--data", str(data), "--run", str(checkpoint.parent), "--cache", str(tmp_path / "cache")]
    assert main(["train", *folders]) == 1
    said = f"percepnet: {checkpoint} is no checkpoint to go on from; allowed: one of a run, or none\n"
    assert capsys.readouterr().err == said
    assert checkpoint.read_bytes() == content


@pytest.mark.parametrize(
    "given",
    [
        ["--preset", "toy", "--batch", "32", "--steps", "6000", "--topology", "subband"],
        ["--batch", "31", "--steps", "6001", "--topology", "full", "--preset", "toy"],
        ["--batch", "32", "--steps", "6000", "--topology", "subband", "--preset", "toy"],
    ],
)
def test_what_is_given_beside_a_preset_goes_before_it(given: list[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(["--data", "x", *given])
    settle(args)
    options = dict(zip(given[::2], given[1::2], strict=True))
    assert (str(args.batch), str(args.steps), args.topology) == (
        options["--batch"],
        options["--steps"],
        options["--topology"],
    )
    assert args.hops == 100


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cuda"], "--device cuda: this PyTorch finds none"),
        (["--init", "nothing.npz"], "nothing.npz: No such file"),
        (["--teacher", "nobody"], "no model at nobody; allowed: lite, subband, or"),
    ],
)
def test_what_cannot_be_had_is_told_before_the_work(
    options: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--run", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]
    assert main(["train", "--data", str(data), *folders, *options]) == 1
    assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hops", "300"], "--hops 300: 1000, the length of a mixture, must be a multiple of it"),
        (["--threads", "33"], "--threads 33: from 1 to --batch, which is 32"),
    ],
)
def test_sizes_that_do_not_fit_are_named(
    options: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data", str(data), "--run", str(tmp_path / "run"), *options]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["steps", "minutes", "workers", "save-every", "batch", "reuse", "rate"])
def test_numbers_that_train_nothing_are_named(
    option: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--data", str(data), "--run", str(tmp_path / "run"), f"--{option}", "0"])
    assert "0 is not allowed; allowed are" in capsys.readouterr().err


def test_export_does_not_replace_what_it_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "w.npz"
    weights.write_bytes(b"weights")
    assert main(["export", str(weights), str(tmp_path / "w"), "--contrast", "1.5"]) == 1
    assert "would replace the weights" in capsys.readouterr().err
    assert main(["export", str(weights), str(tmp_path / "x")]) == 1
    assert f"{weights}: allowed are checkpoint.pt" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["w.npz"]
    assert weights.read_bytes() == b"weights"


def test_levels_the_wrong_way_round_are_told(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mixtures", str(data), str(tmp_path), "--levels", "-5", "-45"]) == 1
    assert "--levels -5 -45: allowed" in capsys.readouterr().err


def test_mixtures_command_writes_the_same_set_again(data: Path, tmp_path: Path) -> None:
    sets = []
    for name in ("a", "b"):
        command = ["mixtures", str(data), str(tmp_path / name), "--count", "2", "--seconds", "2", "-q"]
        assert main(command) == 0
        files = sorted(path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*.flac"))
        sets.append((files, [(tmp_path / name / file).read_bytes() for file in files]))
    assert sets[0] == sets[1]
    assert len(sets[0][0]) == 4
    with av.open(tmp_path / "a" / sets[0][0][0]) as file:
        assert file.streams.audio[0].rate == SAMPLE_RATE


def test_mixtures_are_made_of_what_can_be_read(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    with (folder / "manifest.csv").open("a") as manifest:
        for n in range(5):
            manifest.write(f"\nempty{n}.wav,speech,valid,20000")
            (folder / f"empty{n}.wav").touch()
    assert main(["mixtures", str(folder), str(tmp_path / "set"), "--count", "2", "--seconds", "2", "-q"]) == 0
    assert len(list((tmp_path / "set").rglob("*.flac"))) == 4


def test_a_set_that_is_ended_holds_nothing_half_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: object) -> None:
        assert [path.suffix for path in tmp_path.glob("set/clean/*")] == [".part"]
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(_Encoder, "finish", ended)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit):
            main(["mixtures", str(data), str(tmp_path / "set"), "--count", "1", "--seconds", "2", "-q"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not [*tmp_path.glob("set/*/*")]


def test_two_sets_are_not_mixed(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["mixtures", str(data), str(tmp_path / "set"), "--count", "1", "--seconds", "2", "-q"]
    assert main(command) == 0
    assert main([*command, "--snr", "3"]) == 1
    assert "allowed is a new or empty directory" in capsys.readouterr().err
    assert len(list(tmp_path.rglob("*.flac"))) == 2

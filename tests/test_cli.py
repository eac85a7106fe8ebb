import csv
import json
import math
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from commanding import percepnet

from percepnet import Enhancer, enhance
from percepnet.cli.audio_files import read
from percepnet.cli.audio_writing import write
from percepnet.cli.evaluate import Task, score
from percepnet.cli.processes import each
from percepnet.mixture import active_level

RECORDINGS = Path(__file__).parent / "recordings"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings of 3 s as a test set: clean/, noisy/, noise/."""
    root = tmp_path_factory.mktemp("set")
    for part in ("clean", "noisy", "noise"):
        samples, rate = read(RECORDINGS / f"{part}.flac")
        write(root / part / "one.flac", samples[:, 24_000 : 24_000 + 3 * rate], rate)
        write(root / part / "deeper" / "two.flac", samples[:, 7 * rate : 10 * rate], rate)
    return root


class TestEnhance:
    def test_a_file_is_what_the_library_makes_of_it(self, folder: Path, tmp_path: Path) -> None:
        assert percepnet("enhance", folder / "noisy/one.flac", tmp_path / "new/out.wav", "--bits", "32") == 0
        x, rate = read(folder / "noisy/one.flac")
        y, found = read(tmp_path / "new/out.wav")
        assert found == rate
        np.testing.assert_allclose(y, enhance(x, rate), atol=1e-6)

    def test_options_reach_the_enhancer(self, folder: Path, tmp_path: Path) -> None:
        target = tmp_path / "out.wav"
        options = ("--attenuation-limit-db", "0", "--no-postfilter", "--bits", "24")
        assert percepnet("enhance", folder / "noisy/one.flac", target, *options) == 0
        np.testing.assert_allclose(read(target)[0], read(folder / "noisy/one.flac")[0], atol=2e-6)

    def test_a_directory_keeps_names_and_goes_on_after_a_bad_file(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = tmp_path / "in"
        for name in ("one.flac", "deeper/two.flac"):
            write(source / name, *read(folder / "noisy" / name))
        (source / "bad.wav").write_text("not audio")
        assert percepnet("enhance", source, tmp_path / "out") == 1
        made = sorted(
            path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")
        )
        assert made == ["deeper/two.flac", "one.flac"]
        errors = capsys.readouterr().err
        assert len(re.findall(r"^percepnet: .*bad\.wav", errors, re.MULTILINE)) == 1
        assert "2 of 3 files" in errors

    def test_a_model_that_is_not_there_is_told_once(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert percepnet("enhance", folder / "noisy", tmp_path / "out", "--model", "nosuch") == 1
        assert capsys.readouterr().err.count("no model at nosuch") == 1
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_to_end_leaves_nothing_behind(
        self, number: signal.Signals, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def ended(*args: object) -> None:
            assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
            signal.raise_signal(number)

        before = {each: signal.signal(each, signal.SIG_DFL) for each in (signal.SIGTERM, signal.SIGHUP)}
        monkeypatch.setattr(Enhancer, "process", ended)
        try:
            assert percepnet("enhance", folder / "noisy/one.flac", tmp_path / "out.wav") == 128 + number
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
        assert not any(tmp_path.iterdir())

    @pytest.mark.parametrize(("bits", "peak"), [(16, 1.0), (32, 2.0)])
    def test_what_is_clipped_is_told(
        self, bits: int, peak: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Recorders that write floats go above full scale, and so does ``enhance``."""
        loud = 2 * np.sin(np.arange(48_000) * 2 * np.pi * 200 / 48_000, dtype=np.float32)[None]
        write(tmp_path / "in.wav", loud, 48_000, bits=32)
        command = ["enhance", tmp_path / "in.wav", tmp_path / "out.wav", "--attenuation-limit-db", "0"]
        assert percepnet(*command, "--bits", bits) == 0
        told = "full scale were clipped; .wav and --bits 32 keep them" in capsys.readouterr().err
        assert told == (bits == 16)
        assert np.abs(read(tmp_path / "out.wav")[0]).max() == pytest.approx(peak, abs=0.01)

    def test_quiet_says_nothing(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert percepnet("enhance", folder / "noisy/one.flac", tmp_path, "--format", "opus", "--quiet") == 0
        assert (tmp_path / "one.opus").is_file()
        assert capsys.readouterr() == ("", "")

    def test_inputs_are_never_replaced(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = (folder / "noisy/one.flac").read_bytes()
        assert percepnet("enhance", folder / "noisy/one.flac", folder / "noisy") == 1
        assert percepnet("enhance", folder / "noisy", folder / "noisy") == 1
        assert "would replace an input" in capsys.readouterr().err
        assert (folder / "noisy/one.flac").read_bytes() == before

    def test_two_inputs_for_one_output_are_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("a.wav", "a.flac"):
            write(tmp_path / "in" / name, np.zeros((1, 480), np.float32), 48_000)
        assert percepnet("enhance", tmp_path / "in", tmp_path / "out", "--format", "mp3") == 1
        assert "several inputs would be written to" in capsys.readouterr().err

    def test_a_directory_inside_its_input_is_no_input(self, tmp_path: Path) -> None:
        write(tmp_path / "a.wav", np.zeros((1, 480), np.float32), 48_000)
        for _ in range(2):
            assert percepnet("enhance", tmp_path, tmp_path / "out", "-q") == 0
        assert sorted(path.name for path in tmp_path.rglob("*.wav")) == ["a.wav", "a.wav"]

    def test_a_directory_may_go_into_the_one_around_it_if_that_replaces_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write(tmp_path / "in" / "a.wav", np.zeros((1, 480), np.float32), 48_000)
        assert percepnet("enhance", tmp_path / "in", tmp_path, "-q") == 0
        assert (tmp_path / "a.wav").is_file()
        write(tmp_path / "in" / "in" / "a.wav", np.zeros((1, 480), np.float32), 48_000)
        assert percepnet("enhance", tmp_path / "in", tmp_path, "-q") == 1  # in/in/a.wav to in/a.wav
        assert "would replace an input" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "status", "message"),
        [
            (["enhance", "nothing.wav", "out.wav"], 1, "percepnet: nothing.wav: No such file or directory"),
            (
                ["enhance", "nothing.wav", "out.xyz"],
                1,
                "percepnet: out.xyz: cannot write .xyz; allowed are .wav",
            ),
            (["enhance", "a", "b", "--attenuation-limit-db", "101"], 2, "allowed are numbers from 0 to 100"),
            (["enhance", "a", "b", "--bits", "12"], 2, "invalid choice"),
            (["enhance", "a"], 2, "required: OUT"),
            (["enhance", "", "out"], 2, "argument IN: an empty name"),
            (["enhance", "a.wav", ""], 2, "argument OUT: an empty name"),
            (["enhance", "a.wav", "o.flac", "--format", "mp3"], 1, "o.flac names another; allowed where OUT"),
            (["dance"], 2, "invalid choice: 'dance'"),
            ([], 2, "required: COMMAND"),
        ],
    )
    def test_errors_are_one_line(
        self,
        arguments: list[str],
        status: int,
        message: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert percepnet(*arguments) == status
        said = capsys.readouterr().err
        assert message in said
        assert "Traceback" not in said
        if status == 1:
            assert said.count("\n") == 1


class TestEvaluate:
    def test_table_and_csv(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        target = tmp_path / "scores.csv"
        assert percepnet("evaluate", folder, "--csv", target, "--jobs", "1", "--pictures", 1) == 0
        pictures = [path.relative_to(folder / "pictures") for path in (folder / "pictures").rglob("*.jpg")]
        assert pictures == [Path("deeper/two.jpg")]
        assert (folder / "pictures/deeper/two.jpg").read_bytes().startswith(b"\xff\xd8")
        table = capsys.readouterr().out
        assert table.splitlines()[0].startswith("2 files")
        with target.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [(row["file"], row["system"]) for row in rows] == [
            (name, system)
            for name in ("deeper/two.flac", "one.flac")
            for system in ("noisy", "enhanced", "clean")
        ]
        assert all(float(row["dnsmos_ovrl"]) > 1 for row in rows)
        assert {row["pesq_wb"] for row in rows if row["system"] == "clean"} == {"nan"}
        mean = sum(float(row["pesq_wb"]) for row in rows if row["system"] == "noisy") / 2
        assert re.search(rf"^noisy +{mean:.3f} ", table, re.MULTILINE)

    def test_what_is_already_enhanced_is_scored_as_it_is(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        samples, rate = read(folder / "clean/one.flac")
        noisy, _ = read(folder / "noisy/one.flac")
        write(tmp_path / "clean/x.wav", samples, rate)
        write(tmp_path / "noisy/x.wav", noisy, rate)
        write(tmp_path / "enhanced/x.wav", np.stack([samples[0], samples[0]])[:, :-100], rate)
        assert percepnet("evaluate", tmp_path, "--jobs", "1") == 0
        assert re.search(r"^enhanced +4\.6\d\d +1\.000", capsys.readouterr().out, re.MULTILINE)
        for option in (["--model", "none"], ["--no-postfilter"], ["--attenuation-limit-db", "3"]):
            assert percepnet("evaluate", tmp_path, *option) == 1
            assert f"{' '.join(option)[:20]}" in capsys.readouterr().err
        assert percepnet("evaluate", tmp_path, "--csv", tmp_path / "clean/x.wav") == 1
        assert "allowed are files named .csv" in capsys.readouterr().err

    def test_processes_give_the_same(self, folder: Path, tmp_path: Path) -> None:
        tasks = [Task(folder, Path(name), False, (), {}) for name in ("one.flac", "deeper/two.flac")]
        here, elsewhere = (dict(each(score, tasks, jobs)) for jobs in (1, 2))
        for index in (0, 1):
            for system in ("noisy", "enhanced"):
                there, same = dict(elsewhere[index][system]), dict(here[index][system])
                assert math.isnan(there.pop("cpu")) == math.isnan(same.pop("cpu")) == (system == "noisy")
                assert there == pytest.approx(same, abs=1e-4)

    def test_who_wants_no_more_results_waits_for_none(self) -> None:
        began = time.monotonic()
        results = each(time.sleep, [0.0, 600.0, 600.0, 600.0], 2)
        assert next(results) == (0, None)
        results.close()
        assert time.monotonic() - began < 300

    def test_the_cost_of_every_suppressor_is_told(self, folder: Path, tmp_path: Path) -> None:
        found = score(Task(folder, Path("one.flac"), False, (), {}))
        assert 0 < found["enhanced"]["cpu"] < 1000
        assert math.isnan(found["noisy"]["cpu"])

    def test_unknown_peers_are_named(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert percepnet("evaluate", folder, "--peers", "rnnoise,magic") == 2
        assert "magic is not allowed; allowed are rnnoise, deepfilternet3" in capsys.readouterr().err

    def test_missing_partners_are_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write(tmp_path / "clean/a.wav", np.zeros((1, 480), np.float32), 48_000)
        write(tmp_path / "noisy/b.wav", np.zeros((1, 480), np.float32), 48_000)
        assert percepnet("evaluate", tmp_path) == 1
        assert re.search(r"clean lacks b\.wav", capsys.readouterr().err)


class TestMixtures:
    def test_levels_ratios_and_bandwidths_are_what_was_asked_for(self, folder: Path, tmp_path: Path) -> None:
        data = tmp_path / "data"
        for kind, source in (("speech", "clean"), ("noise", "noise")):
            shutil.copytree(folder / source, data / kind)
        options = (
            "--count",
            "4",
            "--seconds",
            "2",
            "--snr",
            "10",
            "--split",
            "train",
            "--levels",
            "-40",
            "-30",
        )
        dry, wet = tmp_path / "dry", tmp_path / "wet"
        assert percepnet("mixtures", data, dry, *options, "--reverberant", "0", "--band-limited", "0") == 0
        assert percepnet("mixtures", data, wet, *options, "--reverberant", "1", "--band-limited", "1") == 0
        for path in (dry / "clean").iterdir():
            clean, noisy = read(path)[0][0], read(dry / "noisy" / path.name)[0][0]
            level = active_level(clean)
            assert -40.1 < 20 * np.log10(level) < -29.9
            noise = np.sqrt(np.mean(np.square(noisy - clean)))
            assert 20 * np.log10(level / noise) == pytest.approx(10, abs=0.1)
        assert len(list((wet / "noisy").iterdir())) == 4
        for path in (wet / "noisy").iterdir():
            rate = 1_000 * int(path.stem.rpartition("_")[2].removesuffix("kHz"))
            power = np.square(np.abs(np.fft.rfft(read(path)[0][0])))
            above = int(len(power) * (rate / 2 + 500) / 24_000)
            assert power[above:].sum() < 1e-3 * power.sum()


class TestOracle:
    def test_report_of_folders(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = ("--snr", "0", "10", "--examples", "1", "--seconds", "2", "--jobs", "1")
        assert percepnet("oracle", folder / "clean", folder / "noise", tmp_path, *options) == 0
        assert "4 mixtures" in capsys.readouterr().out
        page = (tmp_path / "index.html").read_text(encoding="utf-8")
        sources = re.findall(r'src="([^"]+)"', page)
        assert len(sources) == 2 * 7  # a picture and a player for the clean signal and six stages
        for source in sources:
            assert (tmp_path / source).stat().st_size > 1_000
        mean = json.loads((tmp_path / "scores.json").read_text())["mean"]
        assert len(mean) == 6
        # Ideal answers repair a mixture, whatever the trained network does.
        assert mean["ideal bands"]["pesq_wb"] > mean["noisy"]["pesq_wb"] + 0.3
        with (tmp_path / "scores.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 4 * 6
        assert {row["snr_db"] for row in rows} == {"0", "10"}

    def test_same_seed_same_mixtures(self, folder: Path, tmp_path: Path) -> None:
        def report(seed: int, name: str) -> str:
            options = (
                "--seed",
                str(seed),
                "--seconds",
                "1",
                "--limit",
                "1",
                "--examples",
                "0",
                "--jobs",
                "1",
                "-q",
            )
            assert percepnet("oracle", folder / "clean", folder / "noise", tmp_path / name, *options) == 0
            return (tmp_path / name / "scores.csv").read_text()

        assert report(1, "a") == report(1, "b") != report(2, "c")


class TestBench:
    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert percepnet("bench", "--streams", "1,2", "--seconds", "0.2", "--repeats", "1", "--json") == 0
        document = json.loads(capsys.readouterr().out)
        assert [load["streams"] for load in document["loads"]] == [1, 2]

    def test_table(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert percepnet("bench", "--streams", "3", "--seconds", "0.2", "--repeats", "1") == 0
        assert re.search(r"^ +3 +\d+\.\d\d% +\d+\.\d\d% +\d+\.\d\d%", capsys.readouterr().out, re.MULTILINE)

    @pytest.mark.parametrize("streams", ["0", "1,x", "", "2000"])
    def test_wrong_counts(self, streams: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert percepnet("bench", "--streams", streams) == 2
        assert "whole numbers from 1 to 1024" in capsys.readouterr().err

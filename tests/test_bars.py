"""The measures against suppressors of which it is known what they do, and the command's table."""

import argparse
import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import RECORDINGS

from percepnet import bars
from percepnet.bars import Suppressor
from percepnet.cli import main
from percepnet.cli.bars import Measures, _tasks, add_arguments, table
from percepnet.framing import SAMPLE_RATE, Float
from percepnet.recogniser import word_errors


def quieter(decibels: float) -> Suppressor:
    return lambda samples: samples * np.float32(10 ** (-decibels / 20))


def words(count: int) -> Float:
    """Half a second of tone after half a second of nothing, over and over."""
    tone = 0.1 * np.sin(2 * np.pi * 1000 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    tone[: SAMPLE_RATE // 2] = 0
    return np.tile(tone, count).astype(np.float32)


def test_the_beginning_of_every_word_is_measured_and_nothing_else() -> None:
    clean = words(4)
    out = clean.copy()
    begin = SAMPLE_RATE + SAMPLE_RATE // 2  # of the second word
    out[begin : begin + SAMPLE_RATE // 10] *= 0.5
    out[begin + SAMPLE_RATE // 10 :][: SAMPLE_RATE // 4] *= 0.1  # after its first 100 ms
    np.testing.assert_allclose(bars.word_changes(clean, out), [0, -6.02, 0, 0], atol=0.01)
    assert bars.word_changes(np.zeros_like(clean), out) == []


def test_clean_speech_left_alone_loses_nothing(clean: Float) -> None:
    found = bars.clean_speech(quieter(1), clean[: 5 * SAMPLE_RATE])
    assert found["clean_sig"] == pytest.approx(0, abs=0.1)
    assert isinstance(found["clean_pesq"], float)
    assert found["clean_pesq"] > 4.5
    change = np.asarray(found["clean_word_change"])
    assert len(change) > 0
    np.testing.assert_allclose(change, -1, atol=0.01)
    assert set(np.ravel(found["clean_words"])) == {100}


def test_attenuation_is_that_of_the_sound_after_the_first_second() -> None:
    noise = np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE).astype(np.float32) * 0.1

    def late(samples: Float) -> Float:
        out = quieter(30)(samples)
        out[:SAMPLE_RATE] = samples[:SAMPLE_RATE]
        return out

    assert bars.noise_only(late, noise)["noise_attenuation"] == pytest.approx(30, abs=0.1)


def test_a_noise_that_begins_is_measured_where_it_begins(clean: Float, noisy: Float) -> None:
    part = slice(0, 3 * SAMPLE_RATE)

    def forgetful(samples: Float) -> Float:  # a call's first ten seconds are turned down
        return samples * np.where(np.arange(len(samples)) < 10 * SAMPLE_RATE, np.float32(0.01), np.float32(1))

    for enhance, attenuation in ((quieter(12), 12), (forgetful, 0)):
        found = bars.noise_that_begins(enhance, clean[part], (noisy - clean)[part])
        assert found["begun_attenuation"] == pytest.approx(attenuation, abs=0.01)
        assert abs(found["begun_pesq"]) < 0.02  # of a level, PESQ takes no notice


def test_what_is_lost_is_above_0_and_so_is_what_is_brought(
    clean: Float, noisy: Float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a level in dB in place of each score."""
    monkeypatch.setattr(bars, "scores", lambda _, x, rate, names: dict.fromkeys(names, bars._level(x)))
    speech, noise = clean[: 3 * SAMPLE_RATE], (noisy - clean)[: 3 * SAMPLE_RATE]

    def wearied(samples: Float) -> Float:
        return quieter(4 if len(samples) > len(speech) else 0)(samples)

    def deaf(samples: Float) -> Float:
        return quieter(5 if bars._level(samples) < -35 else 0)(samples)

    found = {
        **bars.clean_speech(quieter(1), speech),
        **bars.comb_gain(quieter(0), quieter(2), speech, noise),
        **bars.eight_bits(quieter(3), quieter(0), speech, noise),
        **bars.noise_that_begins(wearied, speech, noise),
        **bars.quiet_speech(deaf, speech, noise),
    }
    wanted = {
        "clean_sig": 1,
        "comb_pesq": 2,
        "int8_pesq": 3,
        "int8_ovrl": 3,
        "begun_pesq": 4,
        "quiet_pesq": 5,
        "quiet_level": 5,
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=0.01)


def test_what_the_comb_filter_leaves_of_a_machine_is_its_cost() -> None:
    found = bars.machine(quieter(10), quieter(12), np.random.default_rng(0))
    assert found == pytest.approx({"machine_attenuation": 10, "comb_machine": 2}, abs=0.01)


def test_a_lost_upper_half_of_a_telephone_band_is_found() -> None:
    noise = np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE).astype(np.float32) * 0.1

    def dull(samples: Float) -> Float:
        spectrum = np.fft.rfft(samples)
        spectrum[2800 * len(samples) // SAMPLE_RATE :] *= 0.1
        return np.fft.irfft(spectrum, len(samples)).astype(np.float32)

    assert bars.narrow_speech(quieter(0), noise) == pytest.approx({"band_8": 0, "band_16": 0}, abs=1e-3)
    found = bars.narrow_speech(dull, noise)
    assert found["band_8"] == pytest.approx(20, abs=1)
    assert found["band_16"] == pytest.approx(20, abs=1)


def test_the_level_does_not_matter_to_what_scales(clean: Float, noisy: Float) -> None:
    part = slice(0, 5 * SAMPLE_RATE)

    def gate(samples: Float) -> Float:
        return np.where(np.abs(samples) > 0.01, samples, np.float32(0))

    noise = (noisy - clean)[part]
    assert bars.quiet_speech(quieter(3), clean[part], noise)["quiet_level"] == pytest.approx(0, abs=1e-3)
    found = bars.quiet_speech(gate, clean[part], noise)
    assert found["quiet_level"] > 1
    assert found["quiet_pesq"] > 0.1


def test_without_the_comb_there_are_no_strengths() -> None:
    enhance, without = (bars.suppressor(None, comb=comb) for comb in (True, False))
    found = bars.machine(enhance, without, np.random.default_rng(0))
    assert found["machine_attenuation"] > 3
    assert found["comb_machine"] != 0
    assert bars.machine(without, without, np.random.default_rng(0))["comb_machine"] == 0


@pytest.mark.parametrize(
    ("heard", "errors"), [("a b c", 0), ("a c", 1), ("a x c", 1), ("a b c d", 1), ("", 3), ("c b a", 2)]
)
def test_word_errors_are_the_fewest_edits(heard: str, errors: int) -> None:
    assert word_errors(["a", "b", "c"], heard.split()) == errors


def test_the_table_tells_what_is_reached() -> None:
    rows: list[Measures] = [
        {"noise_attenuation": 20.0, "clean_sig": 0.0, "clean_words": [100.0, 0.0]},
        {"noise_attenuation": 30.0, "clean_sig": 0.2, "clean_words": [100.0, 100.0]},
        {"noise_attenuation": 31.0, "words": 3, "wer": -1, "wer_noisy": 2},
        {"words": 1, "wer": 0, "wer_noisy": 0},
    ]
    clips = [{"percepnet": row, "another": {"noise_attenuation": 12.0}} for row in rows]
    lines = {line[:72].strip(): line[72:].split() for line in table(clips).splitlines()[1:]}
    assert " ".join(lines["noise only: attenuation, median"]) == "30.0 dB ≥ 25 dB reached 12.0 dB"
    assert lines["clean speech: fall of SIG"] == ["0.100", "≤", "0.05", "missed"]
    assert lines["clean speech: words whose first 100 ms are within 1.5 dB"][0] == "75.0"
    assert lines["the same, noisy"] == ["50.0", "%"]
    assert len(lines) == 5


def test_clips_are_chosen_of_all_recordings_and_by_the_seed(tmp_path: Path) -> None:
    rows = ["file,kind,split,bandwidth_hz", "noise.flac,noise,valid,20000"]
    rows += [f"{n}.flac,speech,valid,20000" for n in range(30)]
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    parser = argparse.ArgumentParser()
    add_arguments(parser)

    def chosen(*options: str) -> list[str]:
        tasks = _tasks(parser.parse_args([str(tmp_path), *options]))
        return [task.speech.name for task in tasks if task.speech is not None]

    assert sorted(chosen("--count", "30")) == sorted(f"{n}.flac" for n in range(30))
    assert max(Counter(chosen("--count", "45")).values()) == 2
    assert chosen("--count", "10") == chosen("--count", "10")
    assert len(set().union(*(chosen("--count", "10", "--seed", str(seed)) for seed in range(5)))) > 20


def test_the_command_measures_held_out_recordings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("percepnet.cli.bars.PEERS", {"rnnoise": quieter(1)})
    rows = ["file,kind,split,bandwidth_hz"]
    for name, kind in (("clean", "speech"), ("noise", "noise")):
        (tmp_path / f"{name}.flac").write_bytes((RECORDINGS / f"{name}.flac").read_bytes())
        rows.append(f"{name}.flac,{kind},valid,20000")
    (tmp_path / "manifest.csv").write_text("\n".join([*rows[:-1], rows[-1].replace("valid", "train")]))
    assert main(["bars", str(tmp_path), "--count", "1"]) == 1
    assert "1 recordings of speech and 0 of noise in the split valid" in capsys.readouterr().err
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    target = tmp_path / "bars.csv"
    options = ["--count", "1", "--jobs", "1", "-q", "--csv", str(target), "--peers", "rnnoise"]
    assert main(["bars", str(tmp_path), *options]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["measured", "bound", "rnnoise"]
    assert any("clean speech: PESQ-WB" in line for line in lines)
    with target.open(encoding="utf-8") as file:
        measures = {(row["system"], row["measure"]) for row in csv.DictReader(file)}
    for name in ("noise_attenuation", "band_8", "quiet_pesq"):
        assert {("percepnet", name), ("rnnoise", name)} <= measures
    assert ("percepnet", "comb_pesq") in measures

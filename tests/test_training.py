"""From recordings to a model that runs: mixtures, shards, the loop, its resumption and the export."""

import json
import math
import multiprocessing
import signal
import subprocess
import sys
import time
from itertools import islice, pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from percepnet import Enhancer
from percepnet.bands import BANDS, CENTRES_HZ
from percepnet.cli import main
from percepnet.features import FEATURES
from percepnet.framing import HOP, LOOKAHEAD, SAMPLE_RATE, Float
from percepnet.network import Network
from percepnet.postfilter import envelope_postfilter
from percepnet.training import gru, listening, losses, shards, train
from percepnet.training.batches import Batches
from percepnet.training.corpus import Corpus
from percepnet.training.losses import Loss, band_loss, loudness_loss
from percepnet.training.mixing import Mixer
from percepnet.training.teacher import Teacher
from percepnet.training.variation import Variation, warp
from percepnet.training.weights import load_weights


@pytest.fixture(scope="module")
def corpus(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(data, tmp_path_factory.mktemp("cache"), "train")


def test_decoded_corpus_is_the_recording(corpus: Corpus, clean: Float) -> None:
    recording = corpus.speech[0]
    decoded = corpus.samples[recording.start : recording.start + recording.length].astype(np.float32) / 32768
    np.testing.assert_array_equal(decoded, clean)


def test_mixtures_are_sane_varied_and_repeatable(corpus: Corpus) -> None:
    length = 2 * SAMPLE_RATE
    mixers = [Mixer(corpus, length, seed=seed) for seed in range(2)]
    mixtures = [mixer.draw() for mixer in mixers for _ in range(15)]
    for mixture in mixtures:
        assert mixture.noisy.shape == mixture.clean.shape == (length,)
        assert np.isfinite(mixture.noisy).all()
        assert np.abs(mixture.noisy).max() <= 1
    levels = [20 * np.log10(m.noisy.std() + 1e-9) for m in mixtures]
    assert np.ptp(levels) > 20
    again = Mixer(corpus, length, seed=0)
    for mixture in mixtures[:3]:
        np.testing.assert_array_equal(again.draw().noisy, mixture.noisy)
    assert not np.array_equal(mixtures[0].noisy, mixtures[15].noisy)


def test_some_mixtures_have_seconds_of_a_muted_microphone(corpus: Corpus) -> None:
    """Not more than a second short of all: there is something to be heard at the one end or the other."""
    mixer = Mixer(corpus, 6 * SAMPLE_RATE, seed=1)
    longest, off = [], 0
    for _ in range(60):
        mixture = mixer.draw()
        muted = mixture.uncoded == 0
        off += muted.sum()
        # nothing is wanted of who is muted, but what a transform leaves
        assert np.abs(mixture.clean[muted]).max(initial=0) < 1e-4
        sounding = np.flatnonzero(np.abs(mixture.noisy) > 1e-3)
        gaps = np.diff(np.concatenate([[0], sounding, [len(mixture.noisy)]]))
        longest.append(gaps.max() / SAMPLE_RATE if len(sounding) else 0)
    assert off > SAMPLE_RATE
    assert max(longest) > 2
    assert np.median(longest) < 0.5


@pytest.mark.parametrize("gamma", [0.25, 0.5])
def test_the_loss_is_least_at_the_ideal_and_weighs_what_it_is_told_to(gamma: float) -> None:
    ideal, speaking = torch.full((1, 2, BANDS), 0.5), torch.tensor([[[1.0], [0.0]]])
    weight = torch.ones(1, 2, BANDS)

    def loss(gain: torch.Tensor, kind: Loss) -> float:
        return float(band_loss(gain, ideal, ideal, ideal, weight, speaking, kind)[0])

    plain, kind = Loss(gamma), Loss(gamma, speech=3, over=1)
    low, high = ideal.clone(), ideal.clone()
    low[:, 0], high[:, 0] = 0.4, 0.6
    assert loss(ideal, kind) == 0
    assert loss(low, kind) > loss(high, kind)  # speech that is cut is worse
    assert loss(low, kind) > loss(low, plain) > 0
    pause = ideal.clone()
    pause[:, 1] = 0.4
    assert loss(pause, kind) < loss(low, kind)
    assert loss(pause, plain) == pytest.approx(loss(low, plain))


def test_loudness_is_lost_where_a_band_is_heard() -> None:
    ideal, weight = torch.ones(1, 2 + LOOKAHEAD, BANDS), torch.ones(1, 2 + LOOKAHEAD, BANDS)
    lowered, silence = ideal.clone(), torch.full_like(ideal, 1e-3)
    lowered[..., 10] = 0.5

    def loss(gain: torch.Tensor, wanted: torch.Tensor, *, level_db: float = 0, added: float = 0) -> float:
        levels = torch.zeros(1, 2 + LOOKAHEAD, BANDS)
        levels[..., 10] = level_db / 20
        return float(loudness_loss(gain, wanted, levels, weight, added))

    assert loss(ideal, ideal) == pytest.approx(0, abs=1e-9)
    # 200 by Stevens's law, 10^(5 · 0.46)
    assert loss(lowered, ideal) > 200 * loss(lowered, ideal, level_db=-50) > 0
    raised = loss(lowered, ideal, added=1) - loss(lowered, ideal)  # the other bands, by the post-filter
    assert 0 < raised < 0.01 * loss(lowered, ideal)
    assert loss(ideal, silence, added=1) == pytest.approx(2 * loss(ideal, silence))


def test_the_loss_hears_what_the_postfilter_makes() -> None:
    rng = np.random.default_rng(0)
    gain, energy = rng.uniform(0, 1, (1, 3, BANDS)), rng.uniform(0, 1, (1, 3, BANDS))
    mine = losses._postfilter(torch.from_numpy(gain), torch.from_numpy(energy))
    assert_allclose(mine, envelope_postfilter(gain.astype(np.float32), np.sqrt(energy)), atol=1e-5)


@pytest.mark.parametrize(("bf16", "tolerance"), [(False, 1e-4), (True, 0.02)])
def test_the_compiled_gru_is_pytorchs(bf16: bool, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = gru.RowGRU(32, 32, batch_first=True)
    x, state, wanted = (
        torch.randn(37, 20, 32, requires_grad=True),
        torch.randn(1, 37, 32, requires_grad=True),
        torch.randn(37, 20, 32),
    )

    def outcome() -> list[torch.Tensor]:
        y, last = layer(x, state)
        learned = [x, state, *layer.parameters()]
        return [y, last, *torch.autograd.grad((y * wanted).sum() + last.sum(), learned)]

    monkeypatch.setattr(gru, "_kernel", None)
    plain = outcome()
    gru.prepare()
    assert gru._kernel is not None
    with torch.autocast(
        "cpu", torch.bfloat16, enabled=bf16
    ):  # on a processor without AMX in float all the same
        compiled = outcome()
    for mine, theirs in zip(compiled, plain, strict=True):
        assert mine.dtype == torch.float32
        assert_allclose(
            mine.detach(),
            theirs.detach(),
            rtol=tolerance,
            atol=tolerance * float(theirs.detach().abs().max()),
        )


def test_shards_hold_what_the_loss_compares(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "STREAMS", 8)
    monkeypatch.setattr(shards, "HOPS", 200)
    shard = shards.make_shard(Mixer(corpus, 200 * HOP, seed=3)).astype(np.float32)
    assert shard.shape == (8, 200, shards.COLUMNS)
    assert np.isfinite(shard).all()
    gain, strength, weight = np.split(shard[..., FEATURES:-1], 3, axis=-1)
    speaking = shard[..., -1]
    assert set(np.unique(speaking)) == {0, 1}
    assert gain[speaking == 1].mean() > 2 * gain[speaking == 0].mean()
    for part in (gain, strength, weight):
        assert part.min() >= 0
        assert part.max() <= 1
    above = CENTRES_HZ > 7000 * 10 / 7  # of the narrow-band speech, at any of its speeds
    with_speech = gain.max((1, 2)) > 0.05
    assert not weight[with_speech][..., above].any()
    assert weight[..., : BANDS // 2].any()


def test_rows_go_through_whole_mixtures_from_step_to_step(tmp_path: Path) -> None:
    length, hops = shards.HOPS, 200
    for number in range(2):  # each value tells shard, mixture and hop
        where = np.zeros((4, length, shards.COLUMNS), np.float32)
        where[..., -1] = np.arange(number * 4 * length, (number + 1) * 4 * length).reshape(4, length)
        np.save(tmp_path / f"{number:05d}.npy", where)
    batches = Batches(tmp_path, 2 * shards.HOURS, 3, hops, fresh=False, failed=lambda: False)
    with patch.object(shards, "STREAMS", 4):
        steps = list(islice(batches.draw(seed=1), 40))
    assert steps[0][1].all()
    heard = set()
    for (before, _), (now, begun) in pairwise(steps):
        ends = before[:, -1, -1]
        goes_on = now[:, 0, -1] == ends + 1
        assert torch.equal(begun, (ends + 1) % length == 0)
        assert goes_on[~begun].all()
        assert (now[begun][:, 0, -1] % length == 0).all()
        heard.update((now[begun][:, 0, -1] // length).tolist())
    assert len(heard) > 4  # of eight mixtures


def test_a_voice_is_warped_above_its_pitch_and_no_band_is_lost() -> None:
    np.testing.assert_array_equal(warp(1.0), np.eye(BANDS))
    for factor in (0.85, 1.18):
        found = warp(factor)
        assert_allclose(found.sum(0), 1, atol=1e-6)
        np.testing.assert_array_equal(found[:, :4], np.eye(BANDS)[:, :4])
        heard = np.eye(BANDS)[CENTRES_HZ.searchsorted(2650)] @ found  # a formant
        assert heard @ CENTRES_HZ / heard.sum() == pytest.approx(factor * 2650, rel=0.03)
    raised = np.eye(BANDS)[3] @ warp(1.5, pitch=True)  # 300 Hz, a harmonic
    assert raised @ CENTRES_HZ / raised.sum() == pytest.approx(450, rel=0.03)


def test_each_mixture_has_a_voice_of_its_own_from_end_to_end() -> None:
    rng = np.random.default_rng(0)
    rows = rng.uniform(0, 1, (40, 8, shards.COLUMNS)).astype(np.float16)
    rows[:] = rows[:1, :1]  # the same everywhere
    voices = Variation(40)
    np.testing.assert_array_equal(voices.apply(rows), rows)
    voices.renew(np.arange(40), rng)
    heard = voices.apply(rows)
    np.testing.assert_array_equal(heard, np.broadcast_to(heard[:, :1], heard.shape))
    assert len(np.unique(heard[:, 0, 20])) > 24
    correlation_and_speech = [2 * BANDS + 1, -1]
    np.testing.assert_array_equal(heard[..., correlation_and_speech], rows[..., correlation_and_speech])
    octaves = np.unique(rows[0, 0, 2 * BANDS] - heard[..., 2 * BANDS])
    assert octaves[0] == 0
    assert 3 < len(octaves) < 16  # a fifth of the pitches is raised
    assert math.log2(1.1) <= octaves[1] <= octaves[-1] <= math.log2(1.6)
    for part in np.split(heard[..., FEATURES:-1], 3, axis=-1):
        assert 0 <= part.min() <= part.max() <= 1
    equalised = np.abs(heard[..., :BANDS] - heard[..., :1]).max()
    assert equalised * 20 < 2 * (6 + 2 * 3)  # dB
    for level in (-3, -1):  # digital silence, and the reference on its way down to it
        silent = np.full_like(rows, level)
        np.testing.assert_allclose(voices.apply(silent)[..., :BANDS], level, atol=1e-5)
    octaves = voices.apply(np.full_like(rows, -1.5))[..., 2 * BANDS]  # the shortest period, raised
    assert -1.5 == octaves.min() < octaves.max() < -0.5
    none = Variation(40, 0.0)
    none.renew(np.arange(40), rng)
    assert_allclose(none.apply(rows), rows, atol=1e-6)
    voices.renew(np.array([3]), rng)
    again = voices.apply(rows)
    assert (np.delete(again, 3, 0) == np.delete(heard, 3, 0)).all()


def test_toy_trains_resumes_and_exports_a_model_that_runs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``percepnet train --preset toy`` and ``percepnet export``, as their user runs them."""
    monkeypatch.setattr(listening, "_COUNT", 3)
    folders = ["--data", str(data), "--run", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]
    assert main(["train", *folders, "--preset", "toy"]) == 0
    log = tmp_path / "run" / "log.jsonl"
    reports = [json.loads(line) for line in log.read_text().splitlines()]
    assert reports[-1]["train"] < reports[0]["train"]
    assert reports[-1]["valid_gain"] < 0.8 * reports[0]["valid_gain"]  # of the same mixtures each time
    assert reports[-1]["noise_reduction"] > 1
    assert all(math.isfinite(value) for value in reports[-1].values())

    more = ["--topology", "toy", "--mixtures", "0.1", "--batch", "8", "--hops", "100", "--steps", "127"]
    more += ["--threads", "2"]
    assert main(["train", *folders, *more]) == 0
    assert "has 120 steps" in capsys.readouterr().out
    assert main(["train", *folders, *more]) == 0  # nothing is left to do
    assert "is done; for more raise --steps" in capsys.readouterr().out
    resumed = [json.loads(line) for line in log.read_text().splitlines()][-1]
    assert resumed["step"] == 127
    assert resumed["train"] < reports[0]["train"]

    assert main(["export", str(tmp_path / "run" / "checkpoint.pt"), str(tmp_path / "toy")]) == 0
    out = Enhancer(streams=2, model=tmp_path / "toy.onnx").process(np.zeros((2, 960), np.float32))
    assert out.shape == (2, 960)

    own = ["--init", str(tmp_path / "toy.npz"), "--teacher", str(tmp_path / "toy.float.onnx"), "--steps", "1"]
    own += ["--loudness", "0.8"]
    assert main(["train", *folders, "--preset", "toy", "--run", str(tmp_path / "own"), *own]) == 0
    taught = json.loads((tmp_path / "own" / "log.jsonl").read_text())
    assert taught["train"] < 1e-6 < 1e-2 < resumed["train"]  # it has nothing to learn from itself

    checkpoint, sharper = str(tmp_path / "run" / "checkpoint.pt"), str(tmp_path / "sharper")
    assert main(["export", checkpoint, sharper, "--contrast", "2"]) == 0
    said = np.random.default_rng(0).standard_normal((1, 2, FEATURES)).astype(np.float32)
    plain, sharp = (Network(tmp_path / f"{name}.float.onnx") for name in ("toy", "sharper"))
    (gain, strength, _), (sharp_gain, same, _) = (net(said, net.new_state(1)) for net in (plain, sharp))
    logits, sharp_logits = (np.log(g / (1 - g)) for g in (gain, sharp_gain))
    assert_allclose(sharp_logits, 2 * logits, atol=0.02)  # 16-bit weights
    assert_allclose(same, strength, atol=1e-6)

    again = str(tmp_path / "again")  # shipped weights are without their contrast, and exported with it
    assert main(["export", f"{sharper}.npz", again]) == 0
    assert Path(f"{again}.onnx").read_bytes() == Path(f"{sharper}.onnx").read_bytes()
    (_, weights), (_, sharpened) = load_weights(tmp_path / "toy.npz"), load_weights(tmp_path / "sharper.npz")
    assert all(torch.equal(value, sharpened[name]) for name, value in weights.items())


INTERRUPTED = """
import os, signal, sys, time
import numpy as np
from percepnet.cli import main
from percepnet.training import listening, shards

def make(mixer):
    if __name__ == "__main__":
        return np.zeros((1, shards.HOPS, shards.COLUMNS), np.float16)
    os.kill(os.getpid(), signal.SIGINT)  # as a terminal does to all
    print("making", flush=True)
    time.sleep(3600)

listening._COUNT = 1
shards.make_shard = make
if __name__ == "__main__":
    sys.exit(main(["train", "--preset", "toy", *sys.argv[1:]]))
"""


def test_who_interrupts_a_run_reads_of_no_fault(data: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(INTERRUPTED)
    call = [sys.executable, program, "--data", data, "--run", tmp_path / "run", "--cache", tmp_path / "cache"]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(call, **piped) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "making\n"
        run.send_signal(signal.SIGINT)
        assert run.communicate(timeout=60) == ("", "")
    assert run.returncode == 130


def test_a_teacher_hears_each_mixture_from_its_beginning_on() -> None:
    rng = np.random.default_rng(0)
    said = rng.standard_normal((3, 60, FEATURES)).astype(np.float32)
    net = Network("lite")
    whole = [torch.from_numpy(answer) for answer in net(said, net.new_state(3))[:2]]
    teacher, said = Teacher("lite", 3), torch.from_numpy(said)
    first = teacher.answers(said[:, :20], torch.tensor([True, True, True]))
    second = teacher.answers(said[:, 20:40], torch.tensor([False, True, False]))
    third = teacher.answers(said[:, 40:], torch.tensor([False, False, False]))
    for n, answer in enumerate(whole):
        parts = torch.cat([first[n], second[n], third[n]], 1)
        assert torch.equal(parts[[0, 2]], answer[[0, 2]])
    anew = net(said[1:2, 20:].numpy(), net.new_state(1))[0]
    assert_allclose(torch.cat([second[0], third[0]], 1)[1:2], anew, atol=1e-6)


def test_mixtures_of_another_version_are_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "valid").mkdir()
    np.save(tmp_path / "valid" / "00000.npy", np.zeros((1, 1, shards.COLUMNS), np.float16))
    with pytest.raises(ValueError, match="take another --cache"):
        shards.produce(data, tmp_path, "valid", shards.HOURS)


def test_a_maker_of_mixtures_that_has_died_is_noticed_whichever_it_is() -> None:
    training = object.__new__(train._Training)
    context = multiprocessing.get_context("spawn")
    training.producers = [
        context.Process(target=time.sleep, args=(60,)),
        context.Process(target=time.sleep, args=(60,)),
    ]
    for producer in training.producers:
        producer.start()
    assert not training._failed(within=0)
    training.producers[1].kill()
    assert training._failed(within=30)
    training.producers[0].terminate()

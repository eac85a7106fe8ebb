"""``percepnet train``: from a folder of speech and noise to a checkpoint that ``percepnet export`` turns into a model.

Mixtures are made by background processes and kept as shards in ``--cache``; the loop draws from those already there.
A run goes on from ``RUN/checkpoint.pt`` where that exists.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import wait
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from percepnet.bands import BANDS
from percepnet.cli.processes import end_in_order, end_with_starter, interrupts_blocked
from percepnet.framing import HOP, SAMPLE_RATE
from percepnet.network import Network
from percepnet.training import gru, listening, shards
from percepnet.training.arguments import LOSS, add_arguments, settle
from percepnet.training.batches import Batches, split
from percepnet.training.corpus import Corpus
from percepnet.training.losses import Loss, band_loss, distortion_loss, loudness_loss, total_loss
from percepnet.training.model import State
from percepnet.training.subband import SubbandTopology
from percepnet.training.teacher import Teacher
from percepnet.training.topologies import TOPOLOGIES, AnyNetwork, network
from percepnet.training.weights import begin

__all__ = ["add_arguments", "run"]

_AVERAGED: Final = 20  # the weights that are validated and exported are averaged over this part of the run
_WARM_UP: Final = 0.03  # of the run: the learning rate rises to its highest
_CHECKPOINT: Final = "checkpoint.pt"  # in the run's folder
_CARRIED: Final = 0.5  # of mixtures begin with the state of another, as if the place had changed in a call
_CLIP: Final = 1.0  # gradient norm
_FINAL_RATE: Final = 0.03  # of the highest learning rate, at the end of the cosine


def run(args: argparse.Namespace) -> int:
    """Train; returns the exit code."""
    end_in_order()  # so that nothing half decoded stays
    settle(args)
    if shards.HOPS % args.hops:
        raise ValueError(
            f"--hops {args.hops}: {shards.HOPS}, the length of a mixture, must be a multiple of it"
        )
    if not 1 <= args.threads <= args.batch:
        raise ValueError(f"--threads {args.threads}: from 1 to --batch, which is {args.batch}")
    device = _device(args.device)
    if args.bf16 and device.type == "cpu" and not gru.is_faster():
        print("--bf16: this processor is slower with it, and goes on without")
        args.bf16 = False
    state = _resumed(args, device)
    if state is not None:
        begun = f"{args.run} has {state['step']} steps of {state['seconds'] / 60:.1f} minutes in all"
        if _progress(args, state["step"], state["seconds"]) >= 1:
            print(f"{begun}, and is done; for more raise --steps or --minutes, or take another --run")
            return 0
        print(f"{begun}, and goes on{'; --init is for new runs' if args.init else ''}")
    torch.manual_seed(0)
    model = network(TOPOLOGIES[args.topology]).to(device)
    if args.init and state is None:
        begin(model, args.init)
    if args.teacher:
        Network(args.teacher)  # told now if there is none, not after the mixtures
    if isinstance(TOPOLOGIES[args.topology], SubbandTopology) and device.type == "cpu" and gru.is_faster():
        gru.prepare()
    args.run.mkdir(parents=True, exist_ok=True)
    shards.produce(args.data, args.cache, "valid", min(1.0, args.mixtures))
    context = multiprocessing.get_context("spawn")
    heard = context.Value("d", 0.0)  # hours
    producers = [
        context.Process(
            target=_produce,
            args=(args, worker, heard),
            daemon=True,
        )
        for worker in range(args.workers)
    ]
    with interrupts_blocked():
        for producer in producers:
            producer.start()
    try:
        _Training(args, model, device, producers, heard, state).loop()
    finally:
        for producer in producers:
            producer.terminate()
            producer.join()
    return 0


def _device(name: str | None) -> torch.device:
    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: this PyTorch finds none; allowed: cpu")
    return device


def _resumed(args: argparse.Namespace, device: torch.device) -> dict[str, Any] | None:
    """What the run has saved, None for a new one; ValueError if it is damaged or of another topology."""
    path = args.run / _CHECKPOINT
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        found = state["topology"]
    except OSError:
        raise
    except Exception as error:  # of a foreign or damaged file PyTorch raises all kinds
        raise ValueError(f"{path} is no checkpoint to go on from; allowed: one of a run, or none") from error
    wanted = TOPOLOGIES[args.topology].as_dict()
    if found != wanted:
        raise ValueError(f"{path} is of topology {found}; allowed: {args.topology}, {wanted}")
    return state


def _progress(args: argparse.Namespace, step: int, seconds: float) -> float:
    """The part of the run that is done, by steps or by time."""
    return max(step / args.steps, seconds / (60 * args.minutes))


def _produce(args: argparse.Namespace, first: int, heard: Any) -> None:
    os.nice(5)  # the loop comes first
    end_with_starter()
    made = itertools.count()

    def wait_until_wanted() -> None:
        ahead = (next(made) - 1) * args.workers * shards.HOURS
        while args.fresh and ahead > heard.value / args.reuse:
            time.sleep(1)

    if args.fresh:
        first += args.seed
        if present := shards.paths(args.cache / "train"):  # go on where the last run stopped
            done = int(present[-1].stem) + 1 - first
            first += max(0, -(-done // args.workers)) * args.workers
    shards.produce(
        args.data,
        args.cache,
        "train",
        args.mixtures,
        first,
        args.workers,
        wait_until_wanted,
        endless=args.fresh,
    )


class _Training:
    """A run: network, optimiser, averaged weights and the step they are at."""

    def __init__(
        self,
        args: argparse.Namespace,
        model: AnyNetwork,
        device: torch.device,
        producers: list[Any],
        heard: Any,
        state: dict[str, Any] | None,
    ) -> None:
        self.args, self.device, self.producers, self.heard = args, device, producers, heard
        self.model = model
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=args.rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.loss = Loss(**{name: getattr(args, name) for name, *_ in LOSS.values()})
        # Slices, each on one core, for a GRU's products are too small to be shared between cores.
        torch.set_num_threads(1)
        self.pool = ThreadPoolExecutor(args.threads, initializer=torch.set_num_threads, initargs=(1,))
        sizes = [len(part) for part in torch.arange(args.batch).chunk(args.threads)]
        self.states: tuple[State, ...] = tuple(model.new_state(size) for size in sizes)
        self.teachers = [Teacher(args.teacher, size) if args.teacher else None for size in sizes]
        self.examples = listening.Examples(Corpus(args.data, args.cache, "valid"))
        self.step, self.seconds = 0, 0.0  # of training, until now
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.average, self.step, self.seconds = state["average"], state["step"], state["seconds"]

    def loop(self) -> None:
        """Steps up to the end, a checkpoint and a validation line every few hundred."""
        bar = tqdm(total=self.args.steps, initial=self.step, desc="training", unit="step", disable=None)
        losses: list[float] = []
        began = time.monotonic() - self.seconds
        args = self.args
        batches = Batches(
            args.cache / "train",
            args.mixtures,
            args.batch,
            args.hops,
            fresh=args.fresh,
            failed=self._failed,
            variation=args.variation,
        )
        rows = batches.draw(seed=self.step)
        while self.progress < 1:
            losses.append(self._update(*next(rows)))
            self.heard.value += self.args.batch * self.args.hops * HOP / SAMPLE_RATE / 3600
            self.seconds = time.monotonic() - began
            bar.update()
            if self.step % self.args.save_every == 0 or self.progress >= 1:
                report = {"step": self.step, "train": float(np.mean(losses)), **self.validate()}
                if self.step % self.args.listen_every == 0 or self.progress >= 1:
                    report |= self.examples.scores(self.model.topology, self.average)
                report["seconds"] = round(self.seconds)
                losses.clear()
                self._save(report)
                bar.write(json.dumps(report))
                if self._failed(within=0):  # a run that goes on hears only what there is
                    raise RuntimeError(
                        "a process that makes mixtures has failed; the run can go on where it was"
                    )
        bar.close()

    @property
    def progress(self) -> float:
        return _progress(self.args, self.step, self.seconds)

    def _update(self, batch: Tensor, begun: Tensor) -> float:
        cosine = _FINAL_RATE + (1 - _FINAL_RATE) * (0.5 + 0.5 * math.cos(math.pi * min(1, self.progress)))
        warm_up = min(1, self.progress / _WARM_UP)
        for group in self.optimiser.param_groups:
            group["lr"] = self.args.rate * warm_up * cosine
        slices = [
            self.pool.submit(self._gradients, *part)
            for part in zip(
                batch.chunk(self.args.threads),
                begun.chunk(self.args.threads),
                self.states,
                self.teachers,
                strict=True,
            )
        ]
        losses, gradients, self.states = zip(*(part.result() for part in slices), strict=True)
        for parameter, parts in zip(self.model.parameters(), zip(*gradients, strict=True), strict=True):
            parameter.grad = sum(parts[1:], parts[0]) / len(parts)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        self.optimiser.step()
        self.step += 1
        span = self.step / max(self.progress, 1 / self.args.steps) / _AVERAGED  # steps
        decay = min(span / (span + 1), self.step / (self.step + 10))
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)
        return float(np.mean(losses))

    def _gradients(
        self, batch: Tensor, begun: Tensor, state: State, teacher: Teacher | None
    ) -> tuple[float, tuple[Tensor, ...], State]:
        """Loss and gradients of a slice of a step, and the state after it.

        ``begun [B]``: which rows are the first of their mixture.
        """
        features, ideal = split(batch.to(self.device))
        taught = None if teacher is None else teacher.answers(features, begun)
        kept = (~begun | (torch.rand(len(begun)) < _CARRIED)).to(self.device)
        state = [part * kept.view(-1, *[1] * (part.dim() - 1)) for part in state]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.args.bf16):
            gain, strength, state = self.model(features, state)
        levels = features[..., :BANDS]
        loss = total_loss(gain.float(), strength.float(), ideal, levels, self.loss, taught=taught)
        gradients = torch.autograd.grad(loss, list(self.model.parameters()))
        return float(loss.detach()), gradients, [part.detach() for part in state]

    def _failed(self, within: float = 1.0) -> bool:
        """Whether a maker of mixtures has ended by a fault; waits for that so many seconds."""
        ended = wait([producer.sentinel for producer in self.producers], within)
        for producer in self.producers:
            if producer.sentinel in ended:
                producer.join()
        return any(producer.exitcode for producer in self.producers)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Losses of the averaged weights on the validation mixtures."""
        model = network(self.model.topology).to(self.device)
        model.load_state_dict(self.average)
        sums = np.zeros(4)
        paths = shards.paths(self.args.cache / "valid")
        for path in paths:
            features, ideal = split(torch.from_numpy(np.load(path)).to(self.device))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.args.bf16):
                gain, strength, _ = model(features)
            gain = gain.float()
            losses = band_loss(gain, strength.float(), *ideal, self.loss)
            levels = features[..., :BANDS]
            loud = loudness_loss(gain, ideal[0], levels, ideal[2], self.loss.added)
            distorted = distortion_loss(gain, ideal[0], levels, *ideal[2:])
            sums += [float(part) for part in (*losses, loud, distorted)]
        names = ("valid_gain", "valid_strength", "valid_loudness", "valid_distortion")
        return dict(zip(names, (sums / len(paths)).tolist(), strict=True))

    def _save(self, report: dict[str, float]) -> None:
        state = {
            "topology": self.model.topology.as_dict(),
            "model": self.model.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        checkpoint = self.args.run / _CHECKPOINT
        partial = checkpoint.with_suffix(".part")
        torch.save(state, partial)
        partial.replace(checkpoint)
        with (self.args.run / "log.jsonl").open("a") as log:
            log.write(json.dumps(report) + "\n")

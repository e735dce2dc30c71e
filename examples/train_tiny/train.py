"""Trains ds4-tiny on one GPU: `python train.py --run build/run`. Goes on where a run in that folder was cut off.

Stages, as shares of all steps: attention to every compressed entry while the indexer learns from it; from then on the
indexer's choice; and at the end, while the learning rate falls, the released checkpoint's FP4 and FP8 rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from itertools import count
from pathlib import Path

import numpy as np
import released
import torch
from attention import CHOSEN, EVERYTHING, Mode, documents
from batches import Corpus, RowMaker, batches, tokenise
from examinations import Paper, chat_papers, examine, prose_paper, recall_papers
from model_config import CONFIG
from network import Network, Output
from optimizers import Muon, adam_groups, is_matrix
from tokenizers import Tokenizer
from torch import Tensor
from weights import form, initial

from ds4_mlx.config import ModelConfig

HERE = Path(__file__).parent
LAST_RATE = 0.02  # of the peak
MTP_WEIGHT = 0.3
BALANCE_RATE = 0.001  # how fast router biases follow the experts' load


def rate_at(progress: float, options: argparse.Namespace) -> float:
    """Warm-up, plateau, straight decay; `progress` from 0 to 1."""
    if progress < options.warm_up:
        return options.rate * progress / options.warm_up
    if progress < options.constant_until:
        return options.rate
    left = (1 - progress) / (1 - options.constant_until)
    return options.rate * (LAST_RATE + (1 - LAST_RATE) * left)


def weighted_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Cross entropy, a mean over tokens by weight."""
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum()


class Run:
    """A training run: what it is made of, what it knows, and its folder."""

    def __init__(self, folder: Path, build: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        folder.mkdir(parents=True, exist_ok=True)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.sizes = ModelConfig.from_dict(CONFIG)
        self.tokenizer_path = build / "tokenizer" / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(self.tokenizer_path))
        self.corpus = tokenise(build / "corpus" / "train.jsonl", tokenizer)
        held_out = tokenise(build / "corpus" / "held_out.jsonl", tokenizer)
        maker = RowMaker(tokenizer, self.corpus)
        sample = maker.batch(-1, seed=options.seed, rows=100, length=options.length)
        weight = sample.weights.astype(np.float64).ravel()
        counts = torch.from_numpy(np.bincount(sample.ids.ravel(), weight, self.sizes.vocab_size)).float()
        self.papers = self._papers(maker, held_out)

        compiled = self.device == "cuda"
        self.network = Network(self.sizes, compiled=compiled)
        self._loss = torch.compile(weighted_loss, dynamic=False) if compiled else weighted_loss
        start = initial(self.sizes, options.seed, counts)
        if options.start:
            loaded = released.masters(released.read(options.start), self.sizes)
            start |= {name: w for name, w in loaded.items() if not (options.anew and options.anew in name)}
        self.masters = {name: w.to(self.device) for name, w in start.items()}
        learned = {
            n: w.requires_grad_() for n, w in self.masters.items() if w.is_floating_point() and "gate.bias" not in n
        }
        self.muon = Muon({n: w for n, w in learned.items() if is_matrix(n, w)})
        rest = {n: w for n, w in learned.items() if not is_matrix(n, w)}
        self.adam = torch.optim.AdamW(adam_groups(rest), betas=(0.9, 0.95), weight_decay=0.0, fused=compiled)
        self.step, self.seconds = 0, 0.0
        if (folder / "state.pt").exists():
            self._load()

    def _papers(self, maker: RowMaker, held_out: Corpus) -> list[Paper]:
        rows, length = self.options.rows, self.options.length
        papers = [prose_paper(held_out, rows, length)]
        papers += chat_papers(maker, rows, length, self.options.examples)
        return papers + recall_papers(maker, rows, length)

    def train(self) -> None:
        """From where it stands to the last step."""
        options, before, start = self.options, self.seconds, time.monotonic()
        numbers = count(self.step) if options.seconds else range(self.step, options.steps)
        source = batches(
            self.tokenizer_path,
            self.corpus,
            numbers,
            seed=options.seed,
            rows=options.rows,
            length=options.length,
            workers=options.workers,
        )
        saved = time.monotonic()
        sums, since = torch.zeros(4, device=self.device), 0
        for number, batch in enumerate(source):
            if number == 1:
                start = time.monotonic()  # the first step compiles, which takes minutes and teaches nothing
            self.seconds = before + time.monotonic() - start if number else before
            progress = self.seconds / options.seconds if options.seconds else self.step / options.steps
            if progress >= 1:
                break
            out, losses = self._one_step(batch, progress)
            sums += losses
            since += 1
            self.step += 1
            if self.step % options.log_every == 0 or self.step == 1:
                values = [round(v, 4) for v in (sums / since).tolist()]
                loads = torch.stack([load.max() / load.float().mean() for load in out.loads])
                self._log(
                    step=self.step,
                    tokens=self.step * options.rows * options.length,
                    seconds=round(self.seconds, 1),
                    rate=round(rate_at(progress, options), 5),
                    lm=values[0],
                    mtp=values[1],
                    index=values[2],
                    grad=values[3],
                    imbalance=round(float(loads.max()), 2),
                )
                sums.zero_()
                since = 0
            if self.step % options.examine_every == 0:
                self.examine(released=progress >= self.options.released_from)
            if time.monotonic() - saved > options.save_seconds:
                self.save()
                saved = time.monotonic()
        self.save()
        self.examine(released=False)
        self.examine(released=True)

    def _one_step(self, batch, progress: float) -> tuple[Output, Tensor]:
        ids = torch.from_numpy(batch.ids.astype(np.int64)).to(self.device, non_blocking=True)
        weight = torch.from_numpy(batch.weights.astype(np.float32)).to(self.device, non_blocking=True)
        attend = torch.tensor(EVERYTHING if progress < self.options.dense_until else CHOSEN, device=self.device)
        weights = form(self.masters, released=progress >= self.options.released_from)
        out = self.network(weights, ids[:, :-2], Mode(attend), ids[:, 1:-1], documents(ids))
        lm = self._loss(out.logits, ids[:, 1:-1], weight[:, 1:-1])
        mtp = self._loss(out.mtp, ids[:, 2:], weight[:, 2:])
        (lm + MTP_WEIGHT * mtp + out.index_loss).backward()
        with torch.no_grad():
            grad = self.masters["head.weight"].grad.norm()
        rate = rate_at(progress, self.options)
        for group in self.adam.param_groups:
            group["lr"] = rate * group["relative"]
        self.adam.step()
        self.muon.step(rate)
        self._balance(out.loads)
        for w in self.masters.values():
            w.grad = None
        return out, torch.stack([lm.detach(), mtp.detach(), out.index_loss.detach(), grad])

    @torch.no_grad()
    def _balance(self, loads: list[Tensor]) -> None:
        """Router biases follow the load (auxiliary-loss-free balancing, DeepSeek-V3): overloaded experts get less."""
        names = [f"layers.{i}" for i in range(self.sizes.num_hidden_layers)] + ["mtp.0"]
        for name, load in zip(names, loads, strict=True):
            bias = self.masters.get(f"{name}.ffn.gate.bias")
            if bias is not None:
                bias += BALANCE_RATE * (load.float().mean() - load).sign()

    def examine(self, *, released: bool) -> None:
        """Held-out figures of the weights, as the released checkpoint rounds them or not."""
        figures = examine(self.network, form(self.masters, released=released), self.papers, self.device)
        self._log(step=self.step, released=released, examined={name: round(v, 4) for name, v in figures.items()})

    def _log(self, **record) -> None:
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)

    def save(self) -> None:
        """Everything needed to go on."""
        state = {
            "masters": {n: w.detach() for n, w in self.masters.items()},
            "muon": self.muon.state,
            "adam": self.adam.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, self.folder / "state.tmp")
        os.replace(self.folder / "state.tmp", self.folder / "state.pt")

    def _load(self) -> None:
        state = torch.load(self.folder / "state.pt", map_location=self.device)
        with torch.no_grad():
            for name, w in state["masters"].items():
                self.masters[name].copy_(w)
            for name, m in state["muon"].items():
                self.muon.state[name].copy_(m)
        self.adam.load_state_dict(state["adam"])
        self.step, self.seconds = state["step"], state["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=HERE / "build", help="folder with corpus/ and tokenizer/")
    parser.add_argument("--run", type=Path, default=HERE / "build" / "run", help="the run's folder: state and log")
    parser.add_argument("--start", type=Path, help="a released checkpoint to begin with instead of random weights")
    parser.add_argument("--anew", metavar="PART", help="weights with this in their name begin at random all the same")
    parser.add_argument("--steps", type=int, default=6600)
    parser.add_argument(
        "--seconds",
        type=float,
        help="end after this time instead, on a machine lent by the minute",
    )
    parser.add_argument("--rows", type=int, default=8, help="rows per step; with 15 the streams collapse (README)")
    parser.add_argument("--length", type=int, default=4352, help="tokens per row, a multiple of 128")
    parser.add_argument("--rate", type=float, default=0.015, help="Muon's peak learning rate")
    shares = parser.add_argument_group("shares of the run", "0 to 1")
    shares.add_argument("--warm-up", type=float, default=0.01, help="up to which the rate rises")
    shares.add_argument("--constant-until", type=float, default=0.4, help="from which it falls to a fiftieth")
    shares.add_argument("--dense-until", type=float, default=0.33, help="up to which attention sees every entry")
    shares.add_argument("--released-from", type=float, default=0.75, help="from which weights are rounded as released")
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--examples", type=int, default=150, help="held-out chats of each family in an examination")
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--examine-every", type=int, default=500)
    parser.add_argument("--save-seconds", type=float, default=120)
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = True
    Run(options.run, options.build, options).train()


if __name__ == "__main__":
    main()

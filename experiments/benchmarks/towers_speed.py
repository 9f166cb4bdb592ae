"""Both towers of CLIP ViT-B/32 trained along, against a bare loop over open_clip's network that makes the same steps.

An epoch of DSPH is trained on clip arts and their words, from pixels and tokens, with random weights. After each of
its steps the bare loop makes one on the same items (both towers, two linear heads, the same loss and optimizer), so
that both see the same machine. Printed are items/s by wall time and by CPU time, and what ours has of the bare loop's.

    python experiments/benchmarks/towers_speed.py --items 500 --threads 2
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor, nn

from cmh import datasets, training
from cmh.datasets import SearchData
from cmh.features import backbones, tokens
from cmh.interfaces import Arrays, Batch
from cmh.methods import dsph
from cmh.nets.proxies import head

NETWORK, LENGTH, BITS = "clip-vit-b-32", 32, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--batch", type=int, default=64, help="items a step (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    data = clip_arts(asked.items)
    with tempfile.TemporaryDirectory() as place:
        weights = Path(place) / "random.pt"
        torch.manual_seed(0)
        bare = open_clip.create_model("ViT-B-32-quickgelu")
        torch.save(bare.state_dict(), weights)
        network = {"features": NETWORK, "weights": str(weights), "finetune": True, "context_length": LENGTH}
        heads = {"hidden_image": 0, "hidden_text": 0, "bits": BITS, "scale": "none"}
        loop = {"threads": asked.threads, "batch_size": asked.batch, "epochs": 1}
        run, config = training.parse(dsph, {**network, **heads, **loop})
        assert isinstance(config, dsph.Config)
        device, _ = training.prepare(run)
        method, begin = training.build(dsph, run, config, data, device)
    step = Bare(bare, data, config)
    ours, theirs = Times(), Times()
    method.epoch(lambda: in_turn(begin(1)(), ours, lambda batch: theirs.of(lambda: step(batch.index))))
    for name, times in (("cmh", ours), ("bare loop", theirs)):
        wall, cpu = np.sum(times.seconds[1:], axis=0)  # the first step makes the optimizer's memory
        n = asked.items - asked.batch
        print(f"{name:>9}: {n / wall:.2f} items/s, {n / cpu:.2f} items a CPU second ({len(times.seconds) - 1} steps)")
    shares = np.sum(theirs.seconds[1:], axis=0) / np.sum(ours.seconds[1:], axis=0)
    print(f"cmh has {shares[0]:.2f} of the bare loop's speed by wall time, {shares[1]:.2f} by CPU time")


class Times:
    """Wall and CPU seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[tuple[float, float]] = []

    def of(self, work: Callable[[], object]) -> None:
        """Do some work, timed."""
        started = time.perf_counter(), time.process_time()
        work()
        self.add(started)

    def add(self, started: tuple[float, float]) -> None:
        """A step that began then and ends now."""
        self.seconds.append((time.perf_counter() - started[0], time.process_time() - started[1]))


def in_turn(batches: Iterator[Batch], times: Times, other: Callable[[Batch], object]) -> Iterator[Batch]:
    """The batches; each is timed from its making to the end of its step, after which the other side makes one."""
    while True:
        started = time.perf_counter(), time.process_time()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch
        times.add(started)
        other(batch)


def clip_arts(n: int) -> SearchData:
    """Pixels and tokens of n training items; their frozen features, which nothing here reads, are zeros."""
    source = datasets.read("clipart")
    rows = source.split.train[:n]
    read = tokens.of(source, LENGTH)[rows]
    pictures = np.concatenate(list(backbones.decoded(source.pictures(rows.tolist()), backbones.about(NETWORK))))
    pixels = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))
    features = np.zeros((n, 512), np.float32)
    items = Arrays(features, features, source.labels[rows], pixels, read)
    return SearchData("clipart", "", "", NETWORK, source.label_names, items, items, items)


class Bare:
    """A training loop as one writes it by hand."""

    def __init__(self, model: open_clip.CLIP, data: SearchData, config: dsph.Config) -> None:
        train = data.train
        assert train.pixels is not None
        assert train.tokens is not None
        self.pixels, self.tokens, self.labels = map(torch.from_numpy, (train.pixels, train.tokens, train.labels))
        self.model, self.config = model.train(), config
        model.positional_embedding = nn.Parameter(model.positional_embedding.detach()[:LENGTH].clone())
        model.attn_mask = model.attn_mask[:LENGTH, :LENGTH].clone()
        self.heads = nn.ModuleList(head(512, 0, BITS, dropout=config.dropout) for _ in range(2))
        self.proxies = nn.Parameter(torch.randn(self.labels.shape[1], BITS))
        about = backbones.about(NETWORK)
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (about.mean, about.std))
        towers = [parameter for name, parameter in model.named_parameters() if name != "logit_scale"]
        groups: list[dict[str, Any]] = [{"params": towers, "lr": 1e-5}, {"params": list(self.heads.parameters())}]
        self.steppers = [
            torch.optim.Adam(groups, lr=1e-3, fused=True),
            torch.optim.SGD([self.proxies], lr=0.02, momentum=0.9, weight_decay=5e-4),
        ]

    def __call__(self, index: Tensor) -> None:
        """One step on these items."""
        image = self.model.encode_image((self.pixels[index].float() - self.mean) / self.std)
        text = self.model.encode_text(self.tokens[index])
        f, g = (net(vectors) for net, vectors in zip(self.heads, (image, text), strict=True))
        loss, _ = dsph.step_loss(f, g, self.proxies, self.labels[index].float(), self.config)
        for stepper in self.steppers:
            stepper.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for stepper in self.steppers:
            stepper.step()


if __name__ == "__main__":
    main()

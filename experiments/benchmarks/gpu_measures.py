"""The sections of `gpu.py` that measure: each takes a `Place` and gives figures by name, and what was wrong."""

from __future__ import annotations

import functools
import io
import itertools
import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import numpy as np
import torch
from gpu_place import Found, Place, made, seconds
from PIL import Image
from torch import Tensor

from cmh import metrics, training
from cmh.features import backbones
from cmh.interfaces import SearchData
from cmh.losses import similar
from cmh.methods import _template, dcmh
from cmh.metrics import _torch
from cmh.nets.optimizers import descend, optimizer
from cmh.nets.towers import OnBackbone, mlp
from cmh.training.evaluation import Ranking


def a_network(place: Place) -> tuple[str, str]:
    """A network and a file of random weights for it: nothing is downloaded."""
    if place.tiny:
        return "conv4", ""
    import torchvision

    file = place.folder / "resnet50.pth"
    torch.save(torchvision.models.get_model("resnet50", weights=None).state_dict(), file)
    return "resnet50", str(file)


def finetuning(place: Place) -> Found:
    """Pictures a second in training, against a bare loop over pictures that lie on the device."""
    name, weights = a_network(place)
    dim, side = backbones.about(name).dim, backbones.about(name).side
    n, batch = (96, 32) if place.tiny else (2048, 128)
    data = made(n, dim, 1000, 21, side)
    values = {"finetune": True, "features": name, "weights": weights, "batch_size": batch, "bits": 64}
    run, config = training.parse(_template, {**values, "device": place.device})  # type: ignore[arg-type]
    device, _ = training.prepare(run)
    method, begin = training.build(_template, run, config, data, device)  # type: ignore[arg-type]
    numbers = itertools.count(1)
    ours = n / seconds(place, lambda: method.epoch(begin(next(numbers))))

    backbone = backbones.build(name, weights)
    image = OnBackbone(backbone, mlp(dim, 512, 64), lr_share=0.1, amp=True).to(device).train()
    text = mlp(1000, 512, 64).to(device)
    steppers = [optimizer("adam", net, lr=1e-3) for net in (image, text)]
    assert data.train.pixels is not None
    pixels, words, labels = (
        torch.from_numpy(array).to(device) for array in (data.train.pixels, data.train.text, data.train.labels)
    )

    def bare() -> None:
        for picked, said, given in zip(*(torch.split(part, batch) for part in (pixels, words, labels)), strict=True):
            S = similar(given.float(), given.float())
            descend(_template.step_loss(image(picked), text(said), S, config)[0], *steppers)

    alone = n / seconds(place, bare)
    torch.set_deterministic_debug_mode("default")
    torch.backends.cudnn.deterministic = False
    free = n / seconds(place, bare)
    return {
        "network": name,
        "cmh pictures/s": ours,
        "bare loop pictures/s": alone,
        "cmh / bare": ours / alone,
        "bare without deterministic algorithms": free,
    }, []


def extraction(place: Place) -> Found:
    """Pictures a second from JPEG to features, and what decoding and the network alone would allow."""
    name, weights = a_network(place)
    rng, raws = np.random.default_rng(0), []
    for _ in range(16):
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        buffer = io.BytesIO()
        small.resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        raws.append(buffer.getvalue())
    n, batch = (48, 16) if place.tiny else (6144, backbones.BATCH_GPU)
    pictures = list(itertools.islice(itertools.cycle(raws), n))
    threads = max(backbones.DECODERS, len(os.sched_getaffinity(0)))
    figures: dict[str, object] = {"network": name, "threads": threads}
    ready = _rate(backbones.decoded(pictures, backbones.about(name), batch, threads))
    figures["decoding pictures/s"], pixels = ready
    vectors: list[np.ndarray] = []
    for called in (name, f"{name}{backbones.BF16}"):
        figures[f"{called} pictures/s"], first = _rate(backbones.extract(called, pictures, weights=weights))
        vectors.append(first)
        network = backbones.build(called, weights).to(place.device).to(memory_format=torch.channels_last)
        inputs = torch.from_numpy(pixels).to(place.device).permute(0, 3, 1, 2).float()
        with torch.inference_mode(), backbones._precision(called, torch.device(place.device)):
            figures[f"{called} alone pictures/s"] = len(inputs) / seconds(place, functools.partial(network, inputs), 2)
    full, half = (vectors[at] / np.linalg.norm(vectors[at], axis=1, keepdims=True) for at in (0, 1))
    figures["least cosine of bfloat16 and float32"] = float((full * half).sum(1).min())
    return figures, []


def _rate(batches: Iterator[np.ndarray]) -> tuple[float, np.ndarray]:
    """Items a second after the first batch, and that batch."""
    first = next(batches)
    start = time.perf_counter()
    n = sum(len(batch) for batch in batches)
    return n / (time.perf_counter() - start), first


def trials(place: Place) -> Found:
    """Several trials a card: epochs of DCMH with their validation, of all trials together."""
    counts = (1, 2) if place.tiny else (1, 2, 4, 8)
    data = made(200) if place.tiny else made(10_000, 4096, 1000, 21, queries=2000)
    fork = multiprocessing.get_context("fork")  # the arrays are shared; CUDA has not been touched in this process
    ends = [fork.Pipe() for _ in range(counts[-1])]
    workers = [fork.Process(target=_trial, args=(there, place, data), daemon=True) for _, there in ends]
    for worker, (_, there) in zip(workers, ends, strict=True):
        worker.start()
        there.close()
    figures: dict[str, object] = {}
    try:
        for here, _ in ends:
            here.recv()  # ready
        for count in counts:
            some = [here for here, _ in ends[:count]]
            for here in some:
                here.send(0.2 if place.tiny else 4.0)
            said = [here.recv() for here in some]
            figures[f"{count} at once, epochs/s"] = sum(epochs / took for epochs, took, _ in said)
            figures["MiB a trial"] = max(peak for *_, peak in said) / 2**20
    finally:
        for worker in workers:
            worker.kill()
    return figures, []


def _trial(pipe: Connection, place: Place, data: SearchData) -> None:
    run, config = training.parse(dcmh, {"bits": 64, "device": place.device, "threads": 1})
    device, _ = training.prepare(run)
    method, begin = training.build(dcmh, run, config, data, device)
    ranking = Ranking(data.validation_query, data.validation_database, device, False)
    numbers = itertools.count(1)

    def epoch() -> None:
        method.epoch(begin(next(numbers)))
        ranking.average_precision(method)

    epoch()
    pipe.send("ready")
    while True:
        end, start, n = pipe.recv(), time.perf_counter(), 0
        while time.perf_counter() - start < end:
            epoch()
            n += 1
        peak = torch.cuda.max_memory_allocated() if place.device != "cpu" else 0
        pipe.send((n, time.perf_counter() - start, peak))


def exact_map(place: Place) -> Found:
    """MAP's histograms of many items, against the product of the codes alone; the integers of the CPU's kernel."""
    n, n_query, bits, n_labels = (20_000, 40, 64, 21) if place.tiny else (10_000_000, 2000, 64, 21)
    device = torch.device(place.device)
    draw = torch.Generator(device).manual_seed(0)

    def random(rows: int, columns: int, share: float) -> Tensor:
        return torch.rand((rows, columns), generator=draw, device=device) < share

    sides = [random(rows, bits, 0.5).to(torch.int8) * 2 - 1 for rows in (n_query, n)]
    labels = [random(rows, n_labels, 0.07).to(torch.uint8) for rows in (n_query, n)]
    half = torch.float16 if place.device != "cpu" else torch.float32

    def product() -> None:
        query = sides[0].to(half)
        for first in range(0, n, 2**14):
            torch.mm(sides[1][first : first + 2**14].to(half), query.T)

    figures: dict[str, object] = {"items": n, "queries": n_query, "product s": (bare := seconds(place, product, 3))}
    before = torch.cuda.memory_allocated() if place.device != "cpu" else 0
    for pairs in (2**22,) if place.tiny else (2**22, 2**24, 2**26):
        if place.device != "cpu":
            torch.cuda.reset_peak_memory_stats()

        def count(pairs: int = pairs) -> object:
            return _torch.histograms(*sides, *labels, device=device, pairs=pairs)

        took = seconds(place, count, 4)
        figures[f"{pairs} pairs, s"], figures[f"{pairs} pairs, times the product"] = took, took / bare
        if place.device != "cpu":
            figures[f"{pairs} pairs, MiB"] = (torch.cuda.max_memory_allocated() - before) / 2**20
    counts = _torch.histograms(*sides, *labels, device=device)
    figures["AP from the histograms s"] = seconds(place, lambda: metrics.average_precision_from_histograms(*counts), 2)
    few = [side[: min(len(side), 500_000)] for side in (sides[0][:8], sides[1], labels[0][:8], labels[1])]
    there = _torch.histograms(*few, device=device, half=True)
    here = metrics.histograms(*(side.cpu() for side in few))
    same = all(np.array_equal(left, right) for left, right in zip(there, here, strict=True))
    return figures, [] if same else ["the CPU's kernel counts other integers"]


def graph(place: Place) -> Found:
    """A step of DCMH as it is, and replayed as one CUDA graph: whether that would pay."""
    place.need_cuda()
    n, dim, bits, batch = 10_000, 4096, 64, 128
    device, draw = torch.device(place.device), torch.Generator(place.device).manual_seed(0)
    net = mlp(dim, 1024, bits, weight_std=0.01).to(device)
    stepper = optimizer("adam", net, lr=1e-4)
    for group in stepper.param_groups:
        group["capturable"] = True
    features, own, others = (torch.randn(n, d, generator=draw, device=device) for d in (dim, bits, bits))
    labels = (torch.rand(n, 21, generator=draw, device=device) < 0.1).float()
    B, index = own.sign(), torch.randperm(n, generator=draw, device=device)[:batch]
    column_sum = own.sum(0)

    def step() -> None:
        codes = net(features[index])
        rest = column_sum - own[index].sum(0)
        own[index] = codes.detach()
        loss, _ = dcmh.step_loss(codes, others, B[index], similar(labels[index], labels), rest, gamma=1.0, eta=1e-6)
        descend(loss, stepper)
        column_sum.copy_(rest + own[index].sum(0))

    def many(one: object) -> float:
        return seconds(place, lambda: [one() for _ in range(100)], 3) / 100  # type: ignore[operator]

    eager = many(step)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        step()
    replayed = many(captured.replay)
    finite = bool(torch.isfinite(own).all())
    figures: dict[str, object] = {
        "step ms": eager * 1e3,
        "replayed ms": replayed * 1e3,
        "times as fast": eager / replayed,
    }
    return figures, [] if finite else ["the replayed steps diverged"]

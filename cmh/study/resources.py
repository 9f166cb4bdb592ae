"""How many CPUs and GPUs a trial takes, and how many trials run at once in the session."""

from __future__ import annotations

import dataclasses
import logging
import secrets
from collections.abc import Sequence

import torch

from cmh import methods, training
from cmh.cluster import all_resources, ray
from cmh.config import Value
from cmh.errors import StudyError
from cmh.study import node
from cmh.study.request import Limits
from cmh.study.work import Work

log = logging.getLogger(__name__)

CONTEXT_BYTES = 600 * 2**20  # of GPU memory, that a process takes without allocating anything
MOST_ON_A_GPU = 8


@dataclasses.dataclass(frozen=True)
class Resources:
    """What a trial takes, and how many run at once; `most` is what was asked for."""

    cpus: float
    gpus: float
    concurrent: int
    most: int | None = None
    joined: bool = False  # a cluster whose nodes come and go


def of_a_trial(works: Sequence[Work], limits: Limits) -> Resources:
    """What a trial gets, and how many run at once; measured where `auto` was asked for."""
    joined, gpus = limits.address is not None, limits.gpus_per_trial
    if gpus == "auto":
        gpus, why = measured_gpus(works, limits.cpus_per_trial, joined)
        log.info("--gpus-per-trial auto: %s", why)
    return share(limits.max_concurrent, limits.cpus_per_trial, gpus, joined)


def share(concurrent: int | None, cpus_per_trial: float, gpus_per_trial: float | None, joined: bool) -> Resources:
    """How many trials fit into the session at once; a GPU for each where there are any and nobody said otherwise.

    Raises StudyError where not even one fits.
    """
    have = all_resources()
    have_cpus, have_gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
    per_trial = gpus_per_trial if gpus_per_trial is not None else float(bool(have_gpus))
    resources = Resources(cpus_per_trial, per_trial, 1, concurrent, joined)
    room = fitting(resources)
    if room < 1:
        raise StudyError(
            f"a trial asks for {cpus_per_trial:g} CPUs and {per_trial:g} GPUs, but the session has"
            f" {have_cpus:g} and {have_gpus:g}; lower --cpus-per-trial or --gpus-per-trial"
        )
    return dataclasses.replace(resources, concurrent=room)


def fitting(resources: Resources) -> int:
    """How many trials fit into the session as it is now, within what was asked for."""
    have = all_resources()
    needs = {"CPU": resources.cpus, "GPU": resources.gpus}
    room = min((int(have.get(name, 0.0) / need + 1e-6) for name, need in needs.items() if need), default=0)
    return min(room, resources.most or room)


def measured_gpus(works: Sequence[Work], cpus: float, joined: bool) -> tuple[float, str]:
    """GPUs a trial needs, from an epoch of the largest point of each space on one; and how that was found.

    Raises StudyError where that epoch fails.
    """
    if not all_resources().get("GPU", 0.0):
        return 0.0, "the session has no GPU, so trials run on CPUs"
    probe = ray.remote(num_cpus=cpus, num_gpus=1, max_calls=1)(_probe)
    places = node.places(works, joined, secrets.token_hex())
    try:
        found = ray.get([probe.remote(place, _largest(work)) for place, work in zip(places, works, strict=True)])
    except ray.exceptions.RayError as error:  # the largest point may be too large
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise StudyError(
            f"--gpus-per-trial auto: the epoch that measures it failed ({reason}); say a number in place of auto"
        ) from error
    peak, total = max(peak for peak, _ in found), min(total for _, total in found)
    share = gpu_share(peak, total)
    return share, f"an epoch took {peak / 2**20:.0f} MiB of {total / 2**20:.0f}, so a trial gets {share:.3g} GPUs"


def gpu_share(peak: int, total: int) -> float:
    """1/k of a GPU so that k trials fit, each with a quarter of room and its own CUDA context.

    `peak` and `total`: bytes of GPU memory that a trial takes at most, and that there are.
    """
    return 1 / max(1, min(int(total / (1.25 * peak + CONTEXT_BYTES)), MOST_ON_A_GPU))


def _largest(work: Work) -> dict[str, Value]:
    """The point of the space that takes most memory, as far as its numbers say, for one epoch."""
    point = dict(work.store.base)
    for item in work.store.space.ranges:
        if item.kind == "int":
            point[item.name] = int(item.high)
        elif item.kind == "choice" and all(isinstance(choice, (int, float)) for choice in item.choices):
            point[item.name] = max(item.choices, key=float)
    return {**point, **work.run, "epochs": 1}


def _probe(place: node.Place, values: dict[str, Value]) -> tuple[int, int]:
    """Bytes of GPU memory that a run took at most, and that there are."""
    module = methods.get(place.method)
    training.fit(module, *training.parse(module, values), place.search())
    return int(torch.cuda.max_memory_allocated()), int(torch.cuda.mem_get_info()[1])

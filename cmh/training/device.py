"""Where a run computes: its device and its threads, and how both are called."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Mapping

import torch
import torch.utils.deterministic
from torch import Tensor

from cmh import metrics
from cmh.errors import ConfigError
from cmh.training.run import Run

# cuBLAS repeats its sums only with a workspace of fixed buffers, and reads this when its first handle is made, in the
# process's first matrix product on a GPU: so it stands here, where the module is imported. Workers inherit it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# torch reads this with its first large tensor: on Linux large tensors then lie in huge pages. A gradient of 70 MB,
# given back after each step and made anew in the next, else costs 17,000 page faults: 33 ms in the place of 8.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def resolve(run: Run) -> tuple[torch.device, int]:
    """Device and threads that a run would have here. Raises ConfigError where the device cannot be used."""
    return usable(run.device), run.threads or torch.get_num_threads()


def usable(name: str) -> torch.device:
    """The device of a name; `auto` is a GPU where there is one. Raises ConfigError where it cannot be used."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"device {name!r} cannot be used: {why}; it must be auto, cpu, cuda or cuda:N") from error
    return device


def prepare(run: Run) -> tuple[torch.device, int]:
    """Device and threads, after setting all that another trial in this process may have changed.

    torch's deterministic algorithms are on, so that a curve repeats to the last digit: a trial that goes on from a
    checkpoint is compared with what is stored of it. (On a CPU, too: with several threads the gradient of `x[index]`
    is else added up in any order.) An operation that has none, such as the backward pass of VGG's pooling on a GPU,
    gives torch's warning and the run goes on: a resumed trial may then be trained anew.

    Raises ConfigError where the device cannot be used.
    """
    device, threads = resolve(run)
    metrics.set_threads(threads)  # first: numba's own start sets torch to all cores
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    if not torch.are_deterministic_algorithms_enabled():  # where somebody asks for errors, they are errors
        torch.set_deterministic_debug_mode("warn")
    # Nothing here reads memory before it is written, and filling it takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return device, threads


def threads(cpus: float) -> int:
    """Torch threads of a run that is given so many CPUs."""
    return max(1, int(cpus))


def cores(device: torch.device, threads: int) -> int:
    """How many device seconds a second is: a GPU is one device, whatever waits for it."""
    return 1 if device.type == "cuda" else threads


def kind(device: torch.device) -> str:
    """A device as far as it decides how sums are rounded."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.backends.cpu.get_cpu_capability()}"


def describe(device: torch.device, threads: int) -> str:
    """The device in words, for the list of trials."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {threads} thread{'s' * (threads > 1)}"


def release() -> None:
    """Give what a run has left behind back to the system, or to other processes on the GPU.

    Ray runs each trial in a thread of its own, and the C library keeps freed memory for the thread that had it: without
    this a worker of 30 trials of DCMH holds 1.9 GiB, of which .7 are in use.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


def moved(state: Mapping[str, object], device: torch.device, *, copy: bool = False) -> dict[str, object]:
    """A nested state (as `cmh.nets.state.save` gives it) with its tensors on a device, each a `copy` if asked for."""
    return {name: _moved(part, device, copy) for name, part in state.items()}


def _moved(part: object, device: torch.device, copy: bool) -> object:
    if isinstance(part, Tensor):
        return part.detach().to(device, copy=copy)
    if isinstance(part, Mapping):
        return {key: _moved(value, device, copy) for key, value in part.items()}
    if isinstance(part, (list, tuple)):
        return type(part)(_moved(value, device, copy) for value in part)
    return part

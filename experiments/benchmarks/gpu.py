"""All that needs a GPU, checked and measured in one call: under 8 minutes on one card with 16 cores.

    python experiments/benchmarks/gpu.py --json gpu.json              # needs a CUDA device
    python experiments/benchmarks/gpu.py --device cpu --tiny          # the same script in seconds, to see that it runs
    python experiments/benchmarks/gpu.py --only determinism exact_map

Needs no network: data and weights are generated, studies take the built-in clip art. Each section runs in a process of
its own for at most so many seconds; one that fails, hangs or dies costs the others nothing. A line is printed, and the
JSON file written, after each. Exit status 1 where a check failed or a section broke.

Checks: the tests marked `cuda`; that curves repeat; that no step waits for the GPU; a real out-of-memory and its
second try; how `cmh.tune` divides a card. Measures: fine-tuning and extraction in pictures a second; several trials a
card; MAP over 10 million items; a step as one CUDA graph.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

LIMITS = {  # seconds
    "tests": 80,
    "determinism": 75,
    "waits": 40,
    "exact_map": 45,
    "graph": 20,
    "memory": 75,
    "fractions": 90,
    "trials": 45,
    "finetuning": 45,
    "extraction": 45,
}
ALL_SECONDS = 465


def main(argv: list[str] | None = None) -> int:
    """Run the sections, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=LIMITS, default=list(LIMITS), metavar="SECTION")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="so small that figures mean nothing")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), metavar="FILE")
    given = parser.parse_args(argv)
    # It imports everything once, computes nothing and never touches CUDA; each section is a fork of it.
    os.environ["PYTHONPATH"] = f"{HERE}{os.pathsep}{ROOT}"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gpu_place", "gpu_checks", "gpu_measures"])
    end = time.monotonic() + ALL_SECONDS
    report: dict[str, Any] = {"machine": _run(context, "machine", given, end), "sections": {}}
    _say("machine", report["machine"])
    if report["machine"]["status"] != "passed":
        return 2
    for name in given.only:
        report["sections"][name] = found = _run(context, name, given, min(end, time.monotonic() + LIMITS[name]))
        _say(name, found)
        given.json.write_text(json.dumps(report, indent=1, default=str))
    return int(any(one["status"] in ("failed", "broke") for one in report["sections"].values()))


def _run(context: Any, name: str, given: argparse.Namespace, deadline: float) -> dict[str, Any]:
    """What a section found, in a process group that is gone afterwards."""
    start = time.monotonic()
    if deadline - start < 5:
        return {"status": "skipped", "problems": ["no time left"], "seconds": 0.0}
    here, there = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="cmh-gpu-") as folder:
        arguments = (there, name, given.device, given.tiny, folder, deadline)
        process = context.Process(target=_section, args=arguments)
        process.start()
        there.close()
        found: dict[str, Any] = {"status": "broke", "problems": ["its time was over"]}
        with contextlib.suppress(EOFError):
            if here.poll(deadline - start):
                found = {"status": "broke", "problems": ["its process died"]}
                found = here.recv()
                process.join(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    return {**found, "seconds": time.monotonic() - start}


def _section(pipe: Connection, name: str, device: str, tiny: bool, folder: str, deadline: float) -> None:
    os.setsid()
    import gpu_checks
    import gpu_measures
    from gpu_place import Place, SkippedError

    sections = {"machine": _machine, **vars(gpu_checks), **vars(gpu_measures)}
    try:
        figures, problems = sections[name](Place(device, tiny, Path(folder), deadline))
        found = {"status": "failed" if problems else "passed", "figures": figures, "problems": problems}
    except SkippedError as reason:
        found = {"status": "skipped", "problems": [str(reason)]}
    except Exception as error:
        line = (str(error).splitlines() or [""])[0][:300]
        found = {"status": "broke", "problems": [f"{type(error).__name__}: {line}"], "trace": traceback.format_exc()}
    pipe.send(found)


def _machine(place: Any) -> tuple[dict[str, object], list[str]]:
    import torch

    cuda = place.device != "cpu" and torch.cuda.is_available()
    return {
        "gpu": torch.cuda.get_device_name() if cuda else "none",
        "GiB": torch.cuda.get_device_properties(0).total_memory / 2**30 if cuda else 0,
        "torch": torch.__version__,
        "CUDA": torch.version.cuda or "none",
        "cores": len(os.sched_getaffinity(0)),
    }, [] if cuda or place.device == "cpu" else ["no CUDA device; --device cpu --tiny shows that the script runs"]


def _say(name: str, found: dict[str, Any]) -> None:
    print(f"{name:<12} {found['status']:<8} {found['seconds']:6.1f} s", flush=True)
    for key, value in found.get("figures", {}).items():
        print(f"    {key:<52} {f'{value:.4g}' if isinstance(value, float) else value}")
    for line in found["problems"]:
        print(f"    {'' if found['status'] == 'skipped' else '! '}{line}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

"""What several test files need."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# What tests open is no business of the user's ledger of openings.
if "CMH_DATA" not in os.environ:
    os.environ["CMH_DATA"] = tempfile.mkdtemp(prefix="cmh-data-")
    atexit.register(shutil.rmtree, os.environ["CMH_DATA"], ignore_errors=True)

# The same examples in every run, so that what lands does not hang on luck; new ones with HYPOTHESIS_PROFILE=explore.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What is marked `cuda` runs where there is such a device, `slurm` and `slow` where they are asked for."""
    if item.get_closest_marker("slow") is not None and not os.environ.get("CMH_TEST_SLOW"):
        pytest.skip("takes minutes, and a part of it always runs: CMH_TEST_SLOW=1 runs all of it")
    if item.get_closest_marker("slurm") is not None and not os.environ.get("CMH_TEST_SLURM"):
        pytest.skip("takes minutes: CMH_TEST_SLURM=1 starts a real SLURM")
    if item.get_closest_marker("cuda") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.hookimpl(optionalhook=True)  # where pytest-xdist is left out
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file that starts sessions of Ray stays in one process, so that its fixtures do; all else goes anywhere.

    (The groups of `--dist loadgroup` do nothing under pytest 9.2.)
    """
    from xdist.scheduler import LoadScopeScheduling

    with_ray = {path.name for path in Path(__file__).parent.glob("test_*.py") if "pytest.mark.ray" in path.read_text()}
    assert len(with_ray) >= 4

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            name = Path(nodeid.split("::")[0]).name
            return name if name in with_ray else nodeid

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def test_data() -> Callable[[str], Path]:
    """The path of a real data file, in `$CMH_TEST_DATA` or `shared/data` beside the checkout; skips if absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CMH_TEST_DATA", beside))

    def find(name: str) -> Path:
        path = folder / name
        if not path.exists():
            pytest.skip(f"no real data: {name} is not in {folder}; set CMH_TEST_DATA")
        return path

    return find


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the clip art with two seeds, for those who use its models: nobody writes there."""
    from tests.test_encoder import train

    return train(tmp_path_factory.mktemp("clipart"), seeds=[1, 2])

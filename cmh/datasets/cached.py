"""A dataset whose arrays lie in the cache, and the lock on its test split while a method trains."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from cmh import ledger
from cmh.datasets import drawn, sparse
from cmh.datasets.labelled import evaluated
from cmh.errors import DatasetError
from cmh.interfaces import Arrays, Captions, Floats, SearchData, TestData

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Kind = TypeVar("Kind", bound=np.generic)

_LOCKS: list[bool] = []  # one for each `locked` block that runs


@dataclasses.dataclass(frozen=True)
class CachedDataset:
    """What `cmh.datasets.load` gives: an `interfaces.Dataset` whose arrays are mapped from files."""

    name: str
    sha256: str
    split_sha256: str
    features: str
    label_names: tuple[str, ...]
    sizes: dict[str, int]  # query, validation, train, other
    folder: Path
    pixel_folder: Path | None = None
    arrays_sha256: str = ""  # of all its arrays, those of the test queries too; see `cache.arrays_sha256`
    provenance: dict[str, str] = dataclasses.field(default_factory=dict)  # of its features and pixels, when made

    def search(self) -> SearchData:
        """Training and validation items. Raises DatasetError where the cached arrays cannot be read."""
        arrays = self._arrays("search")
        n_train, n_database = self.sizes["train"], self.sizes["train"] + self.sizes["other"]
        about = (self.name, self.sha256, self.split_sha256, self.features, self.label_names)
        parts = (slice(n_train), slice(n_database, None), slice(n_database))
        train, query, database = (arrays.rows(part) for part in parts)
        return SearchData(*about, train, query, evaluated(database, self.name), self.arrays_sha256)

    def test(self) -> TestData:
        """Test queries and the whole database. Each call is an opening of the test split, and noted in its ledger.

        Raises DatasetError while the test split is `locked`, LedgerError where the opening cannot be noted.
        """
        self._check_open()
        ledger.open_test(self.name, self.split_sha256, "dataset.test()")
        return self.noted_test()

    def noted_test(self) -> TestData:
        """The same, for those who have noted the opening themselves: confirmations, of what they show.

        Raises DatasetError while the test split is `locked`.
        """
        self._check_open()
        groups = _map(self.folder / "test" / "group.npy", np.int64)
        return TestData(self._arrays("test"), evaluated(self._arrays("search"), self.name), groups)

    def in_folder(self, folder: Path) -> CachedDataset:
        """The same dataset, whose arrays lie in another folder."""
        return dataclasses.replace(self, folder=folder)

    def _check_open(self) -> None:
        if _LOCKS:
            raise DatasetError(f"{self.name}: the test split is locked while a method is searched or trained")

    def _arrays(self, part: str) -> Arrays:
        folder = self.folder / part
        pixels = None if self.pixel_folder is None else _map(self.pixel_folder / f"{part}.npy", np.uint8)
        tokens = _map(folder / "tokens.npy", np.int32) if (folder / "tokens.npy").exists() else None
        captions = None
        if (starts := folder / f"{drawn.NAME}-starts.npy").is_file():
            captions = Captions(_texts(folder, drawn.NAME), _map(starts, np.int64))
        image, labels = _map(folder / "image.npy", np.float32), _map(folder / "labels.npy", np.uint8)
        return Arrays(image, _texts(folder), labels, pixels, tokens, captions)


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """While the block runs, no dataset of this process gives its test queries: methods have no business there."""
    _LOCKS.append(True)
    try:
        yield
    finally:
        _LOCKS.pop()


def _texts(folder: Path, called: str = "text") -> Floats | csr_array:
    try:
        words = sparse.read(folder, called)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{folder}: the cached texts cannot be read ({error}); delete the folder") from error
    return _map(folder / f"{called}.npy", np.float32) if words is None else words


def _map(path: Path, _kind: type[Kind]) -> NDArray[Kind]:
    """The array `(n, …)` of a file; the number type is for mypy (features may be float16 as well)."""
    try:
        # Copy-on-write: nobody can change the file, and torch takes the array without a copy or a warning.
        array: NDArray[Kind] = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{path}: the cached array cannot be read ({error}); delete its folder") from error
    return array

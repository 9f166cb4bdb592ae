"""Per-query files are read as NumPy reads them, however they were written."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cmh import npz


@pytest.fixture
def numpy_only(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """How often NumPy had to read."""
    calls, load = [], np.load

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        return load(*arguments, **named)

    monkeypatch.setattr(np, "load", counted)
    return calls


KINDS = st.sampled_from([np.float64, np.float32, np.int64, np.uint8, np.bool_])


@given(
    st.dictionaries(
        st.text("abcé_", min_size=1, max_size=4),
        KINDS.flatmap(lambda kind: arrays.arrays(kind, arrays.array_shapes(min_side=0, max_dims=3))),
        min_size=1,
        max_size=4,
    )
)
def test_plain_files_are_read_as_numpy_reads_them(tmp_path_factory: pytest.TempPathFactory, values: Any) -> None:
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    np.savez(path, **{f"x{name}": value for name, value in values.items()})
    found = npz._plain(path.read_bytes())
    assert found is not None
    with np.load(path, allow_pickle=False) as expected:
        assert set(found) == set(expected.files)
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name])
            assert found[name].dtype == expected[name].dtype


def test_plain_files_do_not_wait_for_numpy(tmp_path: Path, numpy_only: list[Any]) -> None:
    np.savez(tmp_path / "a.npz", a=np.arange(3))
    assert npz.read(tmp_path / "a.npz")["a"].tolist() == [0, 1, 2]
    assert numpy_only == []


@pytest.mark.parametrize("how", ["compressed", "columns first", "streamed"])
def test_other_files_are_left_to_numpy(tmp_path: Path, numpy_only: list[Any], how: str) -> None:
    path, values = tmp_path / "a.npz", np.arange(6.0).reshape(2, 3)
    if how == "compressed":
        np.savez_compressed(path, a=values)
    elif how == "columns first":
        np.savez(path, a=np.asfortranarray(values))
    else:
        np.savez(path, a=values)
        with zipfile.ZipFile(path) as archive:
            content = archive.read("a.npy")

        class Pipe:
            """A target that cannot go back to write sizes."""

            def __init__(self) -> None:
                self.parts: list[bytes] = []

            def write(self, part: bytes) -> int:
                self.parts.append(bytes(part))
                return len(part)

            def flush(self) -> None:
                pass

        pipe = Pipe()
        with zipfile.ZipFile(pipe, "w") as archive:  # type: ignore[call-overload]
            archive.writestr("a.npy", content)
        path.write_bytes(b"".join(pipe.parts))
    np.testing.assert_array_equal(npz.read(path)["a"], values)
    assert len(numpy_only) == 1


@given(st.integers(0, 700), st.integers(1, 255), st.booleans())
def test_no_damage_goes_unnoticed(tmp_path_factory: pytest.TempPathFactory, at: int, flip: int, cut: bool) -> None:
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    np.savez(path, a=np.arange(20.0), b=np.arange(5))
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= flip
    path.write_bytes(data[: at % len(data)] if cut else data)
    try:
        found = npz.read(path)
    except Exception:
        return
    wrong = [name for name in found if found[name].tolist() not in ([*range(20)], [*range(5)])]
    assert wrong == []  # names and dates have no sum; numbers do


def test_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        npz.read(tmp_path / "a.npz")

"""Files of codes: what comes back, and every way in which one can be wrong."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmh import codes
from cmh.errors import RecordError


def signs(seed: int = 0, *, n_query: int = 5, n_database: int = 9, bits: int = 12, epochs: int = 0) -> dict[str, Any]:
    """The arrays of a user's file."""
    rng = np.random.default_rng(seed)
    lead = (epochs,) if epochs else ()
    sides = {name: n_query if "query" in name else n_database for name in codes.CODES}
    arrays: dict[str, Any] = {name: rng.choice([-1, 1], (*lead, n, bits)) for name, n in sides.items()}
    arrays["query_labels"] = (rng.random((n_query, 3)) < 0.5).astype(int)
    arrays["database_labels"] = (rng.random((n_database, 3)) < 0.5).astype(int)
    return arrays


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


@settings(max_examples=25)
@given(
    bits=st.integers(1, 70),
    epochs=st.integers(0, 3),
    dtype=st.sampled_from(["int8", "int64", "float32", "float16"]),
    labels=st.sampled_from(["uint8", "bool", "float64"]),
)
def test_signs_of_any_type_come_back_packed(bits: int, epochs: int, dtype: str, labels: str) -> None:
    arrays = signs(bits, bits=bits, epochs=epochs)
    types = {name: labels if "labels" in name else dtype for name in arrays}
    with tempfile.TemporaryDirectory() as folder:
        path = saved(Path(folder) / "c.npz", **{name: arrays[name].astype(kind) for name, kind in types.items()})
        found = codes.read(path)
        codes.write(path, found)
        again = codes.read(path)
    assert found.bits == again.bits == bits
    assert found.epochs == again.epochs == epochs
    for name in codes.CODES:
        np.testing.assert_array_equal(getattr(found, name), getattr(again, name))
        flags = np.unpackbits(getattr(again, name), axis=-1, bitorder="little")[..., :bits]
        np.testing.assert_array_equal(flags * 2.0 - 1, arrays[name])
    for name in codes.LABELS:
        assert getattr(again, name).dtype == np.uint8
        np.testing.assert_array_equal(getattr(again, name), arrays[name])


def test_groups_and_the_chosen_epoch_come_back(tmp_path: Path) -> None:
    path = saved(tmp_path / "c.npz", **signs(epochs=3), query_groups=np.arange(5), chosen_epoch=2, title="ours")
    found = codes.read(path)
    codes.write(tmp_path / "again.npz", found)
    again = codes.read(tmp_path / "again.npz")
    assert again.chosen_epoch == 2
    assert again.query_groups is not None
    assert again.query_groups.tolist() == [0, 1, 2, 3, 4]
    second = again.after(2)
    assert (second.epochs, second.chosen_epoch) == (0, None)
    np.testing.assert_array_equal(second.database_text, again.database_text[1])


def test_bit_j_is_the_lowest_but_j_of_its_byte() -> None:
    one = np.full((1, 12), -1)
    one[0, [0, 3, 8]] = 1
    assert codes.pack(one).tolist() == [[0b1001, 1]]


ZERO_ONE = (signs()["query_image"] > 0).astype(int)
NAN = signs()["query_image"].astype(float)
NAN[1, 2] = np.nan
REAL = signs()["query_image"] * 0.25
PACKED = {name: codes.pack(signs()[name]) for name in codes.CODES}
HIGH_FIRST = {name: np.packbits(signs()[name] > 0, axis=1) for name in codes.CODES}
EPOCHS = signs(epochs=2)

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"query_image": None, "query_labels": None}, "without query_image, query_labels; it holds data"),
    "0/1": ({"query_image": ZERO_ONE}, r"query_image hold 0 and 1 only: 0/1 codes: write numpy.where"),
    "0/1 bytes": ({"query_image": ZERO_ONE.astype(np.uint8)}, "0/1 codes: write numpy.where"),
    "0/1 beside bits": ({"query_image": ZERO_ONE.astype(np.uint8), "bits": 12}, "0/1 codes: write numpy.where"),
    "truth": ({"query_image": ZERO_ONE > 0}, "query_image has type bool, .*write numpy.where"),
    "words": ({"query_image": ZERO_ONE.astype(str)}, "query_image has type <U"),
    "nan": ({"query_image": NAN}, r"query_image hold nan \(row 1, column 2\), which has no sign"),
    "real": ({"query_text": REAL}, r"query_text hold -?0.25 \(row 0, column 0\), .*sign\(0\) = \+1"),
    "epoch": ({**EPOCHS, "query_text": EPOCHS["query_text"] * 3}, r"hold -?3 \(epoch 1, row 0, column 0\)"),
    "flat": ({"query_image": np.ones(5)}, r"query_image has shape \(5,\), but must be \(n, bits\)"),
    "empty": ({"query_image": np.ones((0, 12))}, r"query_image has shape \(0, 12\).*nothing empty"),
    "no bits": (PACKED, "query_image are uint8 without `bits`: if they are packed, add"),
    "other bits": ({**PACKED, "bits": 20}, "query_image have 2 bytes an item, but 20 bits are 3"),
    "no number": ({"bits": 1.5}, "bits is .*1.5.*, but must be an integer >= 1"),
    "bits of signs": ({"bits": 16}, "query_image have 12 columns, but `bits` is 16"),
    "big-endian": ({**HIGH_FIRST, "bits": 12}, "query_image have bits set beyond bit 12.*little"),
    "lengths": ({"database_text": np.ones((9, 16))}, "codes differ in bits: .*database_text 16; were they"),
    "items": ({"query_text": np.ones((4, 12))}, "query_text has 4 items, but query_image 5; both must"),
    "label rows": ({"database_labels": np.ones((8, 3))}, "database_labels has 8 items, but database_image 9"),
    "label columns": ({"query_labels": np.ones((5, 2))}, "query_labels has 2 labels, but database_labels 3"),
    "label values": ({"query_labels": np.full((5, 3), 2)}, "query_labels hold 2 .*0 and 1 only"),
    "class numbers": ({"query_labels": np.ones(5)}, "query_labels has 1 dimensions"),
    "some epochs": ({**EPOCHS, "query_text": signs()["query_text"]}, "query_text has 0 epochs, but query_image 2"),
    "groups": ({"query_groups": np.ones(4)}, r"query_groups must be integers of shape \(5,\)"),
    "chosen": ({**EPOCHS, "chosen_epoch": 3}, "chosen_epoch is 3, .*the file holds 2"),
    "chosen alone": ({"chosen_epoch": 1}, "chosen_epoch is 1, .*the file has no axis of epochs"),
    "chosen half": ({**EPOCHS, "chosen_epoch": 1.5}, r"chosen_epoch is .*1.5.*, but must be one epoch"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_its_cure(name: str, tmp_path: Path) -> None:
    changes, message = BAD[name]
    path = saved(tmp_path / "c.npz", **{**signs(), **changes})
    with pytest.raises(RecordError, match=message) as caught:
        codes.read(path)
    assert str(caught.value).startswith(f"{path} is no file of codes")


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    changed = {**signs(), "query_image": ZERO_ONE, "database_text": NAN, "query_labels": np.full((5, 3), 2)}
    with pytest.raises(RecordError) as caught:
        codes.read(saved(tmp_path / "c.npz", **changed))
    assert len(caught.value.problems) == 3


def test_files_that_are_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    with pytest.raises(RecordError, match="there is no such file"):
        codes.read(path)
    with pytest.raises(RecordError, match="cannot be read"):
        codes.read(tmp_path)
    saved(path, **signs())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RecordError, match=r"cannot be read as .npz .*truncated"):
        codes.read(path)
    path.write_text("no archive")
    with pytest.raises(RecordError, match=r"cannot be read as .npz"):
        codes.read(path)
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(RecordError, match="holds a single array"):
        codes.read(path)
    saved(path, **{**signs(), "query_image": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(RecordError, match=r"cannot be read as .npz .*Python objects"):
        codes.read(path)


def test_codes_in_memory_follow_the_same_rules() -> None:
    given = codes.Codes(**signs())
    packed = codes.Codes(**{**signs(), **PACKED}, bits=12)
    assert (given.bits, given.epochs) == (packed.bits, packed.epochs) == (12, 0)
    np.testing.assert_array_equal(given.database_text, packed.database_text)
    with pytest.raises(RecordError, match="query_image has type list"):
        codes.Codes(**{**signs(), "query_image": [[1, -1]]})
    with pytest.raises(RecordError, match="bits is -1, but must be an integer >= 1"):
        codes.Codes(**{**signs(), **PACKED}, bits=-1)

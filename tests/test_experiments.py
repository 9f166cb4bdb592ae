"""Every experiment file: it runs as it is, says what it is by its name, and keeps to the paper where it says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cmh import config, datasets, methods
from cmh.board import papers
from cmh.config import load_yaml
from cmh.study.target import of_file

FILES = sorted(papers.experiments().glob("*.yml"))


def test_there_are_files_for_every_method() -> None:
    assert len(FILES) >= 4
    assert {load_yaml(path)["method"] for path in FILES} == set(methods.names()) - {"ridge"}
    for name in sorted(set(methods.names()) - {"ridge"}):
        assert any(path.stem.endswith(f"_{name}_clipart") for path in FILES), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment_file_is_sound(path: Path) -> None:
    document: dict[str, Any] = load_yaml(path)
    target = of_file(path)  # raises on unknown keys, bad values, unknown methods
    module = methods.get(target.method)
    author_year, _, rest = path.stem.partition("_")
    assert rest == f"{target.method}_{target.run['dataset']}"
    assert author_year[-4:].isdigit()
    assert abs(int(author_year[-4:]) - module.YEAR) <= 3  # a preprint or a journal version may be meant
    assert target.run["dataset"] in datasets.names()
    assert set(document["config"]) <= set(config.params(module.Config))
    lines = path.read_text(encoding="utf-8").splitlines()
    assert f"python -m cmh.reproduce experiments/{path.name}" in lines[0]
    remarks = " ".join(map(str, document.get("remarks", [])))
    if target.selection == "paper":
        published = config.paper(module.Config)
        for key, value in target.config.items():
            same = value == (published[key] if isinstance(value, str) else pytest.approx(published[key], rel=1e-6))
            if not same:
                assert key in remarks, f"{key} = {value} is not the paper point's {published[key]}; no remark says why"
    else:
        assert document.get("reported") is None


def test_reported_numbers_are_read_by_the_board() -> None:
    reporting = [path for path in FILES if load_yaml(path).get("reported")]
    found = papers.reported(papers.experiments())
    keys = {(load_yaml(path)["method"], load_yaml(path)["dataset"]) for path in reporting}
    assert {(method, dataset) for method, dataset, _ in found} == keys
    for path in reporting:
        table = load_yaml(path)["reported"]
        assert table["source"], path
        assert table["protocol"], path
        for pair in table["results"].values():
            assert 0.2 < min(pair.values()) <= max(pair.values()) < 1

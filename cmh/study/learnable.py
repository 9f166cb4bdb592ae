"""Whether anything can be learned from a dataset's validation split."""

from __future__ import annotations

import shlex

from cmh.errors import ConfigError
from cmh.interfaces import Dataset


def check(name: str, dataset: Dataset) -> None:
    """Raises ConfigError where every ranking of the validation split has the same MAP, so that nothing can be learned
    from it. `name` is what was asked for."""
    data = dataset.search()
    queries, database = data.validation_query.labels > 0, data.validation_database.labels > 0
    problem = ""
    if not (queries & database.any(0)).any():
        problem = f"none of the {len(queries)} validation queries has a relevant item, as none shares a label with one"
    elif (queries.all(0) & database.all(0)).any():
        problem = f"every item is relevant to each of the {len(queries)} validation queries, as all carry one label"
    if problem:
        cure = f"`python -m cmh.datasets check {shlex.quote(name)}` shows labels and split"
        raise ConfigError(f"nothing can be learned from {dataset.name}: {problem}; {cure}")

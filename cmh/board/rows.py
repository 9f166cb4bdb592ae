"""Records in, rows out: which runs belong together, which count, and how they rank."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from cmh.board import current, tables
from cmh.board.find import Run
from cmh.board.tables import Reported, Row


@dataclasses.dataclass(frozen=True)
class Board:
    """The rows that may be compared: same data, split, features, protocol and tie rule; by bits, then rank."""

    dataset: str
    dataset_sha256: str
    split_sha256: str
    features: str
    protocol: str
    tie_rule: str
    n_queries: int | None  # none where no per-query file can be read
    n_groups: int | None  # of near-duplicate queries
    n_runs: int
    rows: tuple[Row, ...]
    runs: tuple[tuple[Run, ...], ...]  # of each row, one a seed


def boards(
    runs: Sequence[Run], reported: Reported, aged: current.Aged = lambda run: ()
) -> tuple[list[Board], list[str]]:
    """The boards, and a line for each thing that was left out or could not be computed.

    The result does not depend on the order of `runs`. `aged` says what of a run is no longer as it was
    (`current.aged` compares with this installation).
    """
    notes: list[str] = []
    latest = current.without_earlier_winners(runs, notes)
    return [_board(members, reported, aged, notes) for members in current.by(latest, current.board_key)], notes


def _board(runs: list[Run], reported: Reported, aged: current.Aged, notes: list[str]) -> Board:
    by_bits: dict[int, list[Run]] = {}
    for run in runs:
        by_bits.setdefault(run.record.identity.bits, []).append(run)
    found = [tables.table(by_bits[bits], reported, aged, notes) for bits in sorted(by_bits)]
    groups = next((groups for _, _, groups in found if groups is not None), None)
    record, made = runs[0].record, runs[0].record.identity
    return Board(
        made.dataset,
        made.dataset_sha256,
        made.split_sha256,
        made.features,
        record.protocol,
        record.tie_rule,
        None if groups is None else groups.size,
        None if groups is None else np.unique(groups).size,
        len(runs),
        tuple(row for rows, _, _ in found for row in rows),
        tuple(runs for _, of_rows, _ in found for runs in of_rows),
    )

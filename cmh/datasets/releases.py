"""Splits of the releases on CLIP, by name: which items of a benchmark, in which order, how many, drawn with which seed.

All three draw as torchcmh does, by a permutation of NumPy's legacy generator: queries first, training items next, and
everything but the queries is the database. So with a release's own `index.mat`, `caption.mat` and `label.mat`
(`toolbox`) the split is the release's, item by item. From an official distribution it is that, too, where the release
says how it orders the items (`dchmt`, `dsph`); `mith` does not: items, numbers and seed are its own, in the order of
the distribution. Validation queries are cmh's: none of these releases has any.

Read from kalenforn/DCHMT 79bd5e6, DarrenZZhang/MM23-MITH 4583a7c and QinLab-WFU/DSPH 078b1a1: `dataset/make_*.py`,
`dataset/dataloader.py` or `load_data.py`, `utils/get_args.py`. DSPH's list of the NUS-WIDE photos that it leaves out
has 73,814 numbers, so that the 195,834 with one of the 21 concepts are left, those without a tag among them; MITH
leaves these out, too. Of MIRFlickr DCHMT and DSPH have all 24,581 photos with a label, the 4,566 without any of the
1,386 tags among them, and give CLIP the tags as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from cmh.datasets.facts import Facts
from cmh.errors import DatasetError

BY_NAME, BY_NUMBER = "by name", "by number"  # orders of photos: im1, im10, im100 …; 9, 25, 30 … in train, then in val


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A release's split of one benchmark."""

    items: int
    query: int
    train: int
    order: str = ""  # of an official distribution; empty: its own
    tagged: bool = False  # photos without a tag of the vocabulary are left out


@dataclasses.dataclass(frozen=True)
class Release:
    """What a release does with the benchmarks."""

    title: str
    seed: int
    sizes: Mapping[str, Sizes]  # by benchmark
    captions: str  # what its texts are
    files: str  # the repository that makes index.mat …


RELEASES = {
    "dchmt": Release(
        "DCHMT (Tu et al., MM 2022)",
        1814,
        {
            "mirflickr25k": Sizes(24_581, 5120, 10_240, BY_NAME),
            "nuswide-tc21": Sizes(195_834, 5120, 10_240),
            "coco2017": Sizes(122_218, 5120, 10_240, BY_NUMBER),
        },
        "raw tags; of COCO all captions, one drawn each time, unseeded in test",
        "github.com/kalenforn/DCHMT, dataset/make_*.py,",
    ),
    "mith": Release(
        "MITH (Liu et al., MM 2023)",
        1,
        {
            "mirflickr25k": Sizes(20_015, 2000, 10_000, tagged=True),
            "nuswide-tc21": Sizes(190_421, 2100, 10_500, tagged=True),
            "coco2014": Sizes(122_218, 5000, 10_000),
        },
        "tags of the vocabulary; of COCO one of the captions, drawn once",
        "github.com/DarrenZZhang/MM23-MITH, dataset/*/make_*.py,",
    ),
    "dsph": Release(
        "DSPH (Huo et al., TCSVT 2023; also DNPH, DHaPH, DCGH)",
        1814,
        {
            "mirflickr25k": Sizes(24_581, 5000, 10_000, BY_NAME),
            "nuswide-tc21": Sizes(195_834, 5000, 10_000),
            "coco2017": Sizes(122_218, 5000, 10_000, BY_NUMBER),
        },
        "as DCHMT's",
        "github.com/QinLab-WFU/DSPH, dataset/make_*.py,",
    ),
}


def under(facts: Facts, order: str) -> Facts:
    """The facts of a benchmark as a release has it; as they are where `order` is none.

    Raises DatasetError where the release does not have this benchmark.
    """
    release = RELEASES.get(order)
    if release is None:
        return facts
    sizes = release.sizes.get(facts.name)
    if sizes is None:
        raise DatasetError(
            f"split {order} is one of {', '.join(release.sizes)}, but not of {facts.name}; its splits:"
            f" {', '.join(of(facts.name))}"
        )
    return dataclasses.replace(
        facts,
        items=sizes.items,
        query=sizes.query,
        train=sizes.train,
        seed=release.seed,
        counts=release.title,
        order=sizes.order,
        tagged=sizes.tagged,
    )


def of(name: str) -> list[str]:
    """The splits that a benchmark has, by name."""
    return ["torchcmh", "file", *(order for order, release in RELEASES.items() if name in release.sizes)]


def about(name: str) -> list[str]:
    """A line for each release that has this benchmark."""
    return [
        f"--split {order}, as {release.title}: {sizes.items:,} items, {sizes.query:,} queries, {sizes.train:,} training"
        f" items, seed {release.seed}; texts there: {release.captions}"
        for order, release in RELEASES.items()
        for sizes in [release.sizes.get(name)]
        if sizes is not None
    ]


def where(name: str) -> list[str]:
    """Where a release's own files of this benchmark come from, a line each."""
    return [
        f"of {order}: index.mat, caption.mat or .txt, label.mat, as {release.files} makes them"
        for order, release in RELEASES.items()
        if name in release.sizes
    ]

"""What is published about the benchmarks: one table, checked against every dataset that is read."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Facts:
    """One benchmark. Sizes are of the matrices that torchcmh and the DCMH release distribute, unless said otherwise.

    `tags_official` and `items_official` hold for the official distribution where it differs; None: not checked,
    because the text is made from captions.
    """

    name: str
    title: str
    reader: str  # of the official distribution
    items: int
    labels: int
    tags: int
    query: int
    train: int
    seed: int  # of torchcmh's split
    validation: int  # drawn by cmh from the database items that are not trained on
    source: str  # of the dataset
    counts: str  # where the numbers are from
    where: tuple[str, ...]  # to get it
    tags_official: int | None = None
    n_official: int | None = None  # items of the official distribution before the selection
    tag_count: int = 0  # tags of the official distribution that fewer items have are dropped
    tagged: bool = False  # items of the official distribution without a tag of the vocabulary are left out
    order: str = ""  # of the items of the official distribution, where it is not its own (`releases`)

    @property
    def database(self) -> int:
        """Every item that is not a query."""
        return self.items - self.query


_TORCHCMH = "torchcmh (links in its torchcmh/dataset/data README)"
_DCMH = "the DCMH release (jiangqy/DCMH-CVPR2017)"
_NUS = (
    "Chua et al., NUS-WIDE: a real-world web image database from National University of Singapore, CIVR 2009,"
    " DOI 10.1145/1646396.1646452"
)
_NUS_WHERE = (
    f"matrices: {_TORCHCMH}: imgList21.mat, tagList21.mat, labelList21.mat; or {_DCMH}",
    "or official: lms.comp.nus.edu.sg, NUS-WIDE: Groundtruth.zip, NUS_WID_Tags.zip, ImageList.zip",
    "photos: Flickr.zip of the official site, or downloaded by NUS-WIDE-urls.txt",
)
_COCO = "Lin et al., Microsoft COCO: common objects in context, ECCV 2014, arXiv:1405.0312"
_COCO_WHERE = "official: cocodataset.org/#download: {year} train images, val images, train/val annotations"

FACTS = {
    facts.name: facts
    for facts in (
        Facts(
            name="mirflickr25k",
            title="MIRFlickr-25K",
            reader="mirflickr",
            items=20_015,
            labels=24,
            tags=1386,
            query=2000,
            train=10_000,
            seed=6,
            validation=1000,
            source="Huiskes and Lew, The MIR Flickr retrieval evaluation, MIR 2008, DOI 10.1145/1460096.1460104",
            counts="Jiang and Li, Deep cross-modal hashing, CVPR 2017; the release's matrices",
            where=(
                f"matrices: {_DCMH}: mirflickr25k-fall.mat, -yall.mat, -lall.mat; or {_TORCHCMH}: imgList.mat,"
                " tagList.mat, labelList.mat",
                "or official: press.liacs.nl/mirflickr: mirflickr25k.zip (photos, meta/tags) and"
                " mirflickr25k_annotations_v080.zip",
                "photos: mirflickr25k.zip of the official site",
            ),
            tags_official=1386,
            n_official=25_000,
            tag_count=20,
            tagged=True,
        ),
        Facts(
            name="nuswide-tc21",
            title="NUS-WIDE, the 21 most frequent concepts",
            reader="nuswide",
            items=195_834,
            labels=21,
            tags=1000,
            query=2100,
            train=10_500,
            seed=7,
            validation=2000,
            source=_NUS,
            counts="Jiang and Li, Deep cross-modal hashing, CVPR 2017 (TC-21); torchcmh's split",
            where=_NUS_WHERE,
            tags_official=1000,
            n_official=269_648,
        ),
        Facts(
            name="nuswide-tc10",
            title="NUS-WIDE, the 10 most frequent concepts",
            reader="nuswide",
            items=186_577,
            labels=10,
            tags=1000,
            query=2100,
            train=10_500,
            seed=7,
            validation=2000,
            source=_NUS,
            counts="Lin et al., Semantics-preserving hashing for cross-view retrieval, CVPR 2015 (items); torchcmh has"
            " no split of it: sizes and seed as for TC-21",
            where=tuple(line.replace("List21", "List10") for line in _NUS_WHERE),
            tags_official=1000,
            n_official=269_648,
        ),
        Facts(
            name="coco2014",
            title="MS COCO 2014",
            reader="coco",
            items=122_218,
            labels=80,
            tags=2026,
            query=5000,
            train=10_000,
            seed=8,
            validation=2000,
            source=_COCO,
            counts="train and val photos with at least one object: 82,081 + 40,137; torchcmh's split",
            where=(
                f"matrices: {_TORCHCMH}: imgList.mat, tagList.mat, labelList.mat",
                "or " + _COCO_WHERE.format(year=2014),
                "photos: train2014 and val2014 of the official site",
            ),
            n_official=123_287,
        ),
        Facts(
            name="coco2017",
            title="MS COCO 2017",
            reader="coco",
            items=122_218,
            labels=80,
            tags=2026,
            query=5000,
            train=10_000,
            seed=8,
            validation=2000,
            source=_COCO,
            counts="train and val photos with at least one object: 117,266 + 4,952, the same photos as 2014;"
            " torchcmh has no split of it: sizes and seed as for 2014",
            where=(
                _COCO_WHERE.format(year=2017),
                "photos: train2017 and val2017 of the official site",
            ),
            n_official=123_287,
        ),
        Facts(
            name="iaprtc12",
            title="IAPR TC-12",
            reader="iapr",
            items=20_000,
            labels=255,
            tags=2885,
            query=2000,
            train=10_000,
            seed=8,
            validation=1000,
            source="Grubinger et al., The IAPR TC-12 benchmark, OntoImage 2006; labels: Escalante et al., The segmented"
            " and annotated IAPR TC-12 benchmark, CVIU 2010, DOI 10.1016/j.cviu.2009.03.008",
            counts="torchcmh's matrices (2,885 tags; papers count 2,912)",
            where=(
                f"matrices: {_TORCHCMH}: imgList.mat, tagList.mat, labelList.mat",
                "or official: imageclef.org/photodata: iaprtc12.tgz (images, annotations) and imageclef.org/SIAPRdata:"
                " saiapr_tc-12 (labels.txt of its folders, wlist.txt)",
                "photos: iaprtc12.tgz of the official site",
            ),
            n_official=20_000,
        ),
    )
}

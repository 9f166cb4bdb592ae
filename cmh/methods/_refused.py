"""Methods of the field that are not here because their codes are not what a board of cmh counts, and why."""

from __future__ import annotations

SEES_BOTH = (
    "its codes are no answer to a query of one modality: {how}. A code of a picture then tells of its own text and of"
    " the items beside it, which is what a query does not have; the audit of every confirmed run marks such codes"
    " (`leak`)"
)

REFUSED = {
    "ucmfh": "UCMFH (Xia et al., Information Fusion 2023, unsupervised): "
    + SEES_BOTH.format(
        how="one transformer reads the image and the text of an item together, for queries, too, and takes a whole test"
        " batch for one sequence (github.com/XinyuXia97/UCMFH, metric.py and model.py)"
    ),
    "prompthash": "PromptHash (CVPR 2025, arXiv:2503.16064, supervised): "
    + SEES_BOTH.format(
        how="its fusion net takes image and text of an item together when queries are encoded, with a prompt made for"
        " each item, and attends over the batch (github.com/CCRG-XJU/PromptHash, hash_model.py)"
    ),
    "dpsih": "DPSIH (AAAI 2026, supervised): it stores four codes an item and counts the bits of one (its 16 bits are"
    " 64 stored), and its distance is the least of the sixteen between two items' codes (github.com/QinLab-WFU/DPSIH);"
    " bits on a board of cmh are bits stored, and an item has one code, which a search engine can look up",
}

"""Loss terms that two or more papers share, as plain functions of codes and labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, normalize, relu

COLUMNS = 2048  # pairs of a row that are worked on at once: 128 rows of them fit a core's cache


class Means:
    """Means of loss terms over the steps of an epoch, added up where they are, so that no step waits for the GPU."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._n_steps = 0

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """One step's terms, each a scalar; always the same ones."""
        self._n_steps += 1
        for name, value in terms.items():
            self._sums[name] = self._sums[name] + value.detach() if name in self._sums else value.detach()

    def values(self) -> dict[str, float]:
        """The means, converted once."""
        return {name: float(total / self._n_steps) for name, total in self._sums.items()}


def weighted(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ weight · term over scalar terms, and the terms without weights or gradient. What has no weight counts once."""
    total = torch.stack([weights.get(name, 1) * term for name, term in terms.items()]).sum()
    return total, {name: term.detach() for name, term in terms.items()}


def similar(labels: Tensor, others: Tensor) -> Tensor:
    """S: 1 where two items share a label, else 0; `(n, c)` and `(m, c)` give `(n, m)`, in their dtype.

    Computed for the rows that are needed; the N × N matrix is never stored. Labels are 0/1 in floating point, so the
    counts of shared ones are exact.
    """
    return (labels @ others.T).clamp_(max=1)


def pairwise_nll(theta: Tensor, similar: Tensor) -> Tensor:
    """log(1 + e^θ) − S·θ for each pair, in the form that does not overflow; S `similar` gets no gradient.

    As max(0, θ) − S·θ − log σ(|θ|), since torch's softplus takes six times as long; each value is right to the last
    digit of log 2.
    """
    value: Tensor = _PairwiseNll.apply(theta, similar)
    return value


def squared_nll(theta: Tensor, similar: Tensor) -> Tensor:
    """The square of each pair's log(1 + e^θ) − S·θ, as SSAH's and GCH's released codes have it."""
    return pairwise_nll(theta, similar).square()


def cosines(rows: Tensor, others: Tensor) -> Tensor:
    """Cosine of each pair of rows, `(n, d)` and `(m, d)` to `(n, m)`; 0 where a row is all zero."""
    return normalize(rows) @ normalize(others).T


def pair_cosines(image: Tensor, text: Tensor) -> dict[str, Tensor]:
    """Cosines `(b, b)` of the codes of a batch, `(b, K)` each: `image` and `text` within, `image_text` between them."""
    return {"image": cosines(image, image), "text": cosines(text, text), "image_text": cosines(image, text)}


def mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values where the 0/1 mask is 1, and 0 where it is nowhere; two tensors of one shape."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def proxy_terms(
    image: Tensor, text: Tensor, proxies: Tensor, labels: Tensor, *, threshold: float = 0.0
) -> dict[str, Tensor]:
    """The seven terms of DSPH without weights, of which DCGH has the same; codes `(b, K)`, proxies `(c, K)`.

    `near_*`: mean of 1 − cos over items and their classes; `far_*`: mean of max(0, cos − threshold) over items and the
    other classes; `apart_*`: the same over pairs of items with at least two labels each that share none. `labels`
    `(b, c)` are 0/1.
    """
    terms = {}
    for name, codes in (("image", image), ("text", text)):
        cosine = cosines(codes, proxies)
        terms[f"near_{name}"] = mean_where(1 - cosine, labels)
        terms[f"far_{name}"] = mean_where(relu(cosine - threshold), 1 - labels)
    several = (labels.sum(1) > 1).to(labels.dtype)
    apart = (1 - similar(labels, labels)) * several * several[:, None]
    for name, cosine in pair_cosines(image, text).items():
        terms[f"apart_{name}"] = mean_where(relu(cosine - threshold), apart)
    return terms


def sign(values: Tensor) -> Tensor:
    """±1 with sign(0) = +1, in the dtype of `values`."""
    return torch.where(values >= 0, 1, -1).to(values.dtype)


def triplet_counts(
    distances: Tensor, similar: Tensor, *, margin: float, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """How often each pair counts in Σ_{a,p,n} w_ap·max(0, d_ap − d_an + margin), from sorted distances d `(b, m)`.

    Of each positive its weight times the negatives within its reach, of each negative the weights of the positives that
    reach it, both `(b, m)` without gradient and 0 elsewhere; and how many triplets that is.
    """
    with torch.no_grad():
        reach = distances + margin
        far = torch.full_like(distances, torch.inf)
        positive = similar > 0
        weights = similar if weights is None else weights * positive
        negatives = torch.where(positive, far, distances).sort(1).values
        reaches, order = torch.where(positive, reach, far).sort(1)
        within = torch.searchsorted(negatives, reach).to(weights.dtype)
        missed = torch.searchsorted(reaches, distances, right=True)
        passed = torch.nn.functional.pad(weights.gather(1, order).cumsum(1), (1, 0)).gather(1, missed)
        reached = (weights.sum(1, keepdim=True) - passed).masked_fill(positive, 0)
        return weights * within, reached, (within * positive).sum()


def cosine_triplets(
    codes: Tensor, others: Tensor, similar: Tensor, *, margin: float, weights: Tensor | None = None
) -> Tensor:
    """Σ_{a,p,n} w_ap·max(0, d_ap − d_an + margin) over anchors a, similar p and dissimilar n; d = max(0, 1 − cos).

    Parameters
    ----------
    codes: anchors `(b, K)` of one modality. others: positives and negatives `(m, K)` of the other one.
    similar: `(b, m)`, 0/1. weights: w `(b, m)`, not negative; 1 where absent.

    No b × m × m block: between its kinks the sum is linear in the distances. So the value and the gradient are those of
    the explicit sum, for O(b·m·log m).
    """
    distances = (1 - cosines(codes, others)).clamp_min(0)
    within, reached, _ = triplet_counts(distances, similar, margin=margin, weights=weights)
    return (distances * (within - reached)).sum() + margin * within.sum()


def semi_hard(s: Tensor, S: Tensor, margin: Tensor) -> Tensor:
    """Mean of s_an − s_ap + margin over triplets with 0 < s_ap − s_an < margin, and 0 where there is none.

    Parameters
    ----------
    s: similarities `(b, b)`. S: 0/1 `(b, b)`; p is any other item with S_ap = 1, n any with S_an = 0.

    The sum is linear in s between its kinks, so that sorting tells how often each pair counts, as in `cosine_triplets`.
    """
    with torch.no_grad():
        positive = (S > 0) & ~torch.eye(len(S), dtype=torch.bool, device=S.device)
        positives, negatives = (s.masked_fill(~of, torch.inf).sort(1).values for of in (positive, S == 0))
        below, missed = torch.searchsorted(negatives, s), torch.searchsorted(negatives, s - margin, right=True)
        within = positive * (below - missed).clamp_min(0)
        above, beside = torch.searchsorted(positives, s + margin), torch.searchsorted(positives, s, right=True)
        reached = (S == 0) * (above - beside).clamp_min(0)
    return ((s * (reached - within)).sum() + margin * within.sum()) / within.sum().clamp_min(1)


def info_nce(one: Tensor, other: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE of vectors of length 1, `(n, m, d)`: cross-entropy of each of m among the m of its group, both ways."""
    scores = one @ other.transpose(1, 2) / temperature
    places = torch.arange(scores.shape[1], device=scores.device).expand(scores.shape[:2])
    return (cross_entropy(scores, places) + cross_entropy(scores.transpose(1, 2), places)) / 2


def strangers(S: Tensor) -> Tensor:
    """Pairs i < j that share no label and of which one shares a label with a third item: the pairs of an anchor and a
    negative in some triplet, each once; `(b, b)` 0/1 as S is.
    """
    anchors = (S.sum(1) > S.diagonal()).to(S.dtype)
    return ((1 - S) * (anchors + anchors[:, None]).clamp(max=1)).triu(1)


def evenness(codes: Tensor) -> Tensor:
    """cos(|h|, 1) of each row `(n, K)`: 1 where all its entries are of one size, 1/√K where only one is not 0."""
    cosine: Tensor = normalize(codes.abs()).sum(1) / codes.shape[1] ** 0.5
    return cosine


def pair_weights(similar: Tensor) -> Tensor:
    """Weights of pairs, as Deep Cauchy Hashing has them: all pairs / similar pairs where similar, else 1."""
    share = similar.mean().clamp_min(1 / similar.numel())
    return torch.where(similar > 0, 1 / share, torch.ones_like(share))


def gains(labels: Tensor) -> Tensor:
    """w `(b, b)`: the gain 2^r − 1 of each pair with r labels in common, over the best DCG of its row.

    A row without gains stays 0.
    """
    gain = (labels @ labels.T).exp2() - 1
    discounts = (torch.arange(len(labels), device=labels.device, dtype=labels.dtype) + 2).log2()
    best = (gain.sort(1, descending=True).values / discounts).sum(1, keepdim=True)
    return gain / torch.where(best > 0, best, 1)


def label_codes(labels: Tensor, B: Tensor, *, ridge: float) -> Tensor:
    """(LᵀL + λI)⁻¹ LᵀB `(c, K)`: codes B `(N, K)` regressed on labels L `(N, c)`."""
    gram = labels.T @ labels + ridge * torch.eye(labels.shape[1], dtype=labels.dtype, device=labels.device)
    regressed: Tensor = torch.linalg.solve(gram, labels.T @ B)
    return regressed


def clipped_nll(codes: Tensor, others: Tensor, similar: Tensor) -> Tensor:
    """`mean_nll` with θ = ½ max(−64, min(64, codes othersᵀ)); up to 64 bits in (−1, 1) the bounds change nothing."""
    if codes.shape[-1] <= 64:
        return mean_nll(codes, others, similar, 0.5)
    return pairwise_nll((codes @ others.detach().T).clamp(-64, 64) / 2, similar).mean()


def sum_nll(codes: Tensor, others: Tensor, similar: Tensor, scale: float) -> Tensor:
    """Σ log(1 + e^θ) − S·θ over all pairs, θ = scale · codes othersᵀ, where `others` `(N, K)` are constants.

    Several sets of codes for the same items, `(M, b, K)`, share S `(b, N)`.

    The gradient, scale · (σ(θ) − S) others, is computed at once, from the σ that the value needs: no `(b, N)` block
    waits for the backward pass.
    """
    value: Tensor = _SumNll.apply(codes, others.detach(), similar, scale)
    return value


def mean_nll(codes: Tensor, others: Tensor, similar: Tensor, scale: float) -> Tensor:
    """The mean over all pairs of what `sum_nll` adds up, over the sets of codes, too."""
    return sum_nll(codes, others, similar, scale) / (codes[..., 0].numel() * len(others))


class Saved(Protocol):
    """What torch gives an autograd function to remember tensors by."""

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...
    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _PairwiseNll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Saved, theta: Tensor, similar: Tensor) -> Tensor:
        p = torch.sigmoid(theta)
        ctx.save_for_backward(p - similar)
        return theta.clamp(min=0).sub_(similar * theta).sub_(_surer(p).log_())

    @staticmethod
    @once_differentiable
    def backward(ctx: Saved, upstream: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return upstream * slope, None


class _SumNll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Saved, codes: Tensor, others: Tensor, similar: Tensor, scale: float) -> Tensor:
        scaled, gradient, parts = scale * codes, torch.zeros_like(codes), []
        for block, S in zip(torch.split(others, COLUMNS), torch.split(similar, COLUMNS, 1), strict=True):
            theta = scaled @ block.T  # ([M,] b, COLUMNS)
            p = torch.sigmoid(theta)
            # One logarithm of a product in the place of 32: none is smaller than ½, so no product is below 2^−32.
            surer = torch.split(_surer(p).flatten(0, -2), 32)
            parts += [(S * theta).sum(), *(rows.prod(0).log_().sum() for rows in surer)]
            parts.append(theta.clamp_(min=0).sum().neg_())
            gradient += p.sub_(S) @ block
        ctx.save_for_backward(gradient.mul_(scale))
        return -torch.stack(parts).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Saved, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None, None


def _surer(p: Tensor) -> Tensor:
    """max(p, 1 − p), which is σ(|θ|) where p is σ(θ)."""
    return (p - 0.5).abs_().add_(0.5)


def reconstruction(codes: Tensor, others: Tensor, S: Tensor) -> Tensor:
    """Mean over all pairs of (cos(codes_i, others_j) − S_ij)²."""
    return (cosines(codes, others) - S).square().mean()

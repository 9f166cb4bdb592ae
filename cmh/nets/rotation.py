"""An orthogonal matrix that can be trained: a product of reflections."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def reflected(rows: Tensor, mirrors: Tensor) -> Tensor:
    """Rows `(b, K)` after the Householder reflections at the columns of `mirrors` `(K, K)`, the last column first.

    Of columns U of length 1 the product is I − U S⁻¹ Uᵀ with S = ½ I + the part of UᵀU above its diagonal (Joffrain et
    al., TOMS 2006, DOI 10.1145/1141885.1141886): one triangular solve for K products.
    """
    U = normalize(mirrors, dim=0)
    S = (U.T @ U).triu(1) + torch.eye(U.shape[1], dtype=U.dtype, device=U.device) / 2
    away: Tensor = torch.linalg.solve_triangular(S, U.T @ rows.T, upper=True)
    return rows - away.T @ U.T

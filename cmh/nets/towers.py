"""Towers from one modality's features to the hash layer."""

from __future__ import annotations

from torch import nn


def mlp(n_in: int, n_hidden: int, n_out: int, *, weight_std: float) -> nn.Sequential:
    """Linear, ReLU, linear: features `(n, n_in)` to real-valued outputs `(n, n_out)`.

    `n_hidden = 0` leaves the last layer alone. Weights and biases are drawn from N(0, weight_std²).
    """
    if n_hidden == 0:
        layers: list[nn.Module] = [nn.Linear(n_in, n_out)]
    else:
        layers = [nn.Linear(n_in, n_hidden), nn.ReLU(), nn.Linear(n_hidden, n_out)]
    net = nn.Sequential(*layers)
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0.0, weight_std)
    return net

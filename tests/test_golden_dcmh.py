"""DCMH's loss against the authors' code: every case of the golden file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cmh.losses import pairwise_nll, sign, similar
from cmh.methods.dcmh import step_loss
from tests import golden

CASES = golden.cases("DCMH")
STEPS = [case for case in CASES if "_step_" in case]
WHOLE = [case for case in CASES if case.startswith("whole_set_objective")]
MATLAB = [case for case in CASES if case.startswith("matlab_analytic_gradient")]
LEFT_OUT: dict[str, str] = {}  # case → reason; none is
INDEX = torch.from_numpy(golden.batch())


def step(name: str, gamma: float, eta: float) -> tuple[float, dict[str, float], torch.Tensor]:
    """An image or text step as the recipe describes it: (total, terms, gradient)."""
    buffers = {"image": golden.tensor("F_raw"), "text": golden.tensor("G_raw")}
    own, others = buffers[name], buffers["text" if name == "image" else "image"]
    codes = golden.tensor("f_raw" if name == "image" else "g_raw").requires_grad_()
    labels = golden.tensor("L")
    B = sign(buffers["image"] + buffers["text"])[INDEX]
    rest = own.sum(0) - own[INDEX].sum(0)
    loss, terms = step_loss(codes, others, B, similar(labels[INDEX], labels), rest, gamma=gamma, eta=eta)
    assert loss.dtype == torch.float64
    loss.backward()
    assert codes.grad is not None
    return float(loss.detach()), {term: float(value) for term, value in terms.items()}, codes.grad


def whole(gamma: float, eta: float) -> tuple[float, dict[str, float], list[torch.Tensor]]:
    """J over all items: both steps with the whole set as one batch; the likelihood stands in both, so once."""
    F, G, labels = golden.tensor("F_raw"), golden.tensor("G_raw"), golden.tensor("L")
    F[INDEX], G[INDEX] = golden.tensor("f_raw"), golden.tensor("g_raw")
    B, S, nothing = sign(F + G), similar(labels, labels), torch.zeros(F.shape[1]).double()
    nll = float(pairwise_nll(0.5 * F @ G.T, S).sum())
    total, sums, gradients = -nll, {"nll": -nll, "quantisation": 0.0, "balance": 0.0}, []
    for codes, others in ((F, G), (G, F)):
        codes = codes.clone().requires_grad_()
        loss, terms = step_loss(codes, others, B, S, nothing, gamma=gamma, eta=eta)
        (loss * S.numel()).backward()
        total += float(loss.detach()) * S.numel()
        sums = {term: value + float(terms[term]) for term, value in sums.items()}
        assert codes.grad is not None
        gradients.append(codes.grad)
    return total, sums, gradients


@pytest.mark.parametrize("name", golden.INPUTS)
def test_inputs_are_those_of_the_file(name: str) -> None:
    array, expected = golden.array(name), golden.FILE["inputs"][name]["fingerprint"]
    assert list(array.shape) == expected["shape"]
    assert str(array.dtype) == expected["dtype"]
    assert array.sum() == pytest.approx(expected["sum"], rel=1e-12, abs=1e-12)
    assert np.square(array).sum() == pytest.approx(expected["sumsq"], rel=1e-12)
    assert [*array.flat[:3], array.flat[-1]] == pytest.approx([*expected["first3"], expected["last"]], rel=1e-12)


def test_batches_are_those_of_the_file() -> None:
    assert golden.batch(1).tolist() == golden.FILE["ind"]
    assert golden.batch(2).tolist() == golden.FILE["ind2"]


def test_every_case_of_the_file_is_covered() -> None:
    assert sorted([*STEPS, *WHOLE, *MATLAB, *LEFT_OUT]) == sorted(CASES)
    assert len(CASES) == len(golden.FILE["methods"]["DCMH"]["cases"]) == 8
    assert (len(STEPS), len(WHOLE), len(MATLAB), len(LEFT_OUT)) == (4, 2, 2, 0)


@pytest.mark.parametrize("case", STEPS)
def test_step(case: str) -> None:
    expected = CASES[case]
    name = "image" if "_image_" in case else "text"
    total, terms, gradient = step(name, expected["hyper"]["gamma"], expected["hyper"]["eta"])
    assert total == pytest.approx(expected["total"], rel=1e-8)
    ours = {"logloss": terms["nll"], "quantization": terms["quantisation"], "balance": terms["balance"]}
    assert ours == pytest.approx(expected["terms"], rel=1e-8)
    assert len(expected["grads"]) == 1
    golden.assert_gradient(gradient, next(iter(expected["grads"].values())))


@pytest.mark.parametrize("case", WHOLE)
def test_whole_set_objective(case: str) -> None:
    expected = CASES[case]
    total, terms, gradients = whole(**expected["hyper"])
    assert total == pytest.approx(expected["total"], rel=1e-8)
    ours = {
        "logloss": terms["nll"],
        "quantization(F and G)": terms["quantisation"],
        "balance(F and G)": terms["balance"],
    }
    assert ours == pytest.approx(expected["terms"], rel=1e-8)
    assert len(expected["grads"]) == 2
    for gradient, name in zip(gradients, ("F (N,K)", "G (N,K)"), strict=True):
        golden.assert_gradient(gradient, expected["grads"][name])


@pytest.mark.parametrize("case", MATLAB)
def test_matlab_gradient(case: str) -> None:
    """MATLAB's is the gradient of the sum: N·b times ours."""
    expected: dict[str, Any] = CASES[case]
    name, key = ("image", "f_raw") if case.endswith("f_raw") else ("text", "g_raw")
    scale = golden.SIZES["b"] * golden.SIZES["N"]
    hyper = {weight: expected["hyper"][weight] for weight in ("gamma", "eta")}
    golden.assert_gradient(scale * step(name, **hyper)[2], expected["grads"][key])
    likelihood = scale * step(name, gamma=0, eta=0)[2]
    golden.assert_gradient(likelihood, expected["grads"][f"{key} (logloss part only)"])
    assert len(expected["grads"]) == 2
    assert whole(**hyper)[0] == pytest.approx(expected["total"], rel=1e-8)

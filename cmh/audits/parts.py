"""Dead-part audit: loss terms that cannot move a code, and parameters that never change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from cmh import datasets
from cmh.audits.part import EPOCHS, Trial, trainable
from cmh.audits.trace import Term, Touched, Trace
from cmh.interfaces import Config, MethodModule, SearchData
from cmh.training import Run

ITEMS, ITEMS_FROM_PIXELS = 128, 16
FIRST = 2  # names in a finding, before "and n more"


@datasets.locked()
def dead(module: MethodModule, run: Run, config: Config, data: SearchData) -> list[str]:
    """Train EPOCHS short epochs on a few items of every label, one batch a pass, and look at what moved.

    A loss term is alive where its gradient is not 0 on a parameter that the encoders use. One that trains other
    parameters (a critic, a net of labels) is alive where the codes change once those parameters are moved: it acts
    through another term, or through what a method stores. A parameter is dead where it has the same values after all
    epochs. What follows a closed form has neither and passes.

    Returns findings; raises what the method raises.
    """
    trial = _Seen(module, run, config, data)
    findings = []
    for name, term in trial.terms.items():
        if not term.traced or (term.zero and not term.reached):
            continue  # not found, or never at work on these items
        if term.constant and not term.reached:
            findings.append(f"loss term `{name}` has no gradient on any parameter: it is a constant to all nets")
        elif not term.reached:
            findings.append(f"loss term `{name}` has no gradient on any parameter")
        elif not term.trained:
            findings.append(f"loss term `{name}` is reported, but no backward pass goes through it")
        elif not term.reached & trial.encoders and not trial.moves_codes(term.reached):
            findings.append(
                f"loss term `{name}` has no gradient on the image or the text encoder, and what it trains"
                f" ({_listed(sorted(term.reached))}) changes no code"
            )
    return findings + _still(trial.still)


class _Seen:
    """One audited training: its `terms`, and names of the `encoders`' parameters and of those that stood `still`."""

    def __init__(self, module: MethodModule, run: Run, config: Config, data: SearchData) -> None:
        self._arguments = module, run, config, data
        trial = self._trial()
        parameters = trainable(trial.method)
        before = {name: it.detach().clone() for name, it in parameters.items()}
        with Touched() as touched:
            trial.outputs()
        self.encoders = {name for name, it in parameters.items() if id(it) in touched.leaves}
        self.terms: dict[str, Term] = {}
        for number in range(1, trial.epochs + 1):
            unknown = any(term.traced and not term.reached for term in self.terms.values())
            with Trace(parameters, measure=number == 1 or unknown) as trace:
                reported = trial.epoch(number)
            trace.terms(reported, self.terms)
        self.still = [name for name, it in parameters.items() if torch.equal(before[name], it.detach())]
        self._outputs = trial.outputs()
        self._moved: dict[frozenset[str], bool] = {}

    def moves_codes(self, names: Iterable[str]) -> bool:
        """Whether the codes' outputs at the end are others where these parameters are moved after the first epoch."""
        key = frozenset(names)
        if key not in self._moved:
            # Far, too: next to large gradients a small one is lost in rounding, and units that are off stay off.
            self._moved[key] = any(self._codes_change(key, distance) for distance in (1.0, 1e3))
        return self._moved[key]

    def _codes_change(self, names: frozenset[str], distance: float) -> bool:
        trial = self._trial()
        trial.epoch(1)
        _move(trainable(trial.method), names, distance)
        for number in range(2, trial.epochs + 1):
            trial.epoch(number)
        return not all(map(torch.equal, self._outputs, trial.outputs()))

    def _trial(self) -> Trial:
        module, run, config, data = self._arguments
        return Trial(module, run, config, data, n=ITEMS_FROM_PIXELS if run.finetune else ITEMS)


def _move(parameters: Mapping[str, Tensor], names: frozenset[str], distance: float) -> None:
    """Random steps, as long as the parameters are on average times `distance`."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in sorted(names):
            it = parameters[name]
            noise = torch.randn(it.shape, generator=draw).to(it)
            it += distance * noise * (it.abs().mean() + 0.1)


def _still(names: list[str]) -> list[str]:
    """One finding for each net."""
    nets: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        nets.setdefault(".".join(parts[: 2 if len(parts) > 2 else 1]), []).append(name)
    return [
        f"parameter{'s' * (len(all_of) > 1)} {_listed(all_of)} never change{'s' * (len(all_of) == 1)}"
        f" (in {EPOCHS} epochs)"
        for all_of in nets.values()
    ]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:FIRST]) + (f" and {len(names) - FIRST} more" if len(names) > FIRST else "")

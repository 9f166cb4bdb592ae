"""Dead-part audit: loss terms that cannot move a code, and parameters that never change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from cmh import datasets
from cmh.audits.part import EPOCHS, Trial, owners, trainable
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

    Returns findings. Raises what the method raises, and ConfigError where the device cannot be used or the backbone
    cannot be trained along.
    """
    training = _Training(module, run, config, data)
    findings = []
    for name, term in training.terms.items():
        if not term.traced or (term.zero and not term.reached):
            continue  # not found, or never at work on these items
        if term.constant and not term.reached:
            findings.append(f"loss term `{name}` has no gradient on any parameter: it is a constant to all nets")
        elif not term.reached:
            findings.append(f"loss term `{name}` has no gradient on any parameter")
        elif not term.trained:
            findings.append(f"loss term `{name}` is reported, but no backward pass goes through it")
        elif not term.reached & training.encoders and not training.moves_codes(term.reached):
            findings.append(
                f"loss term `{name}` has no gradient on the image or the text encoder, and what it trains"
                f" ({_listed(sorted(term.reached))}) changes no code"
            )
    return findings + _never_change(training.unchanged)


class _Training:
    """One audited training: its `terms`, the names of the `encoders`' parameters, and of each parameter that is
    `unchanged` at the end the net that it is of.
    """

    def __init__(self, module: MethodModule, run: Run, config: Config, data: SearchData) -> None:
        self._arguments = module, run, config, data
        trial = self._trial()
        parameters = trainable(trial.method)
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        with Touched() as touched:
            trial.outputs()
        self.encoders = {name for name, parameter in parameters.items() if id(parameter) in touched.leaves}
        self.terms: dict[str, Term] = {}
        for number in range(1, trial.epochs + 1):
            unknown = any(term.traced and not term.reached for term in self.terms.values())
            with Trace(parameters, measure=number == 1 or unknown) as trace:
                reported = trial.epoch(number)
            trace.terms(reported, self.terms)
        unchanged = [name for name, parameter in parameters.items() if torch.equal(before[name], parameter.detach())]
        nets = owners(trial.method)
        self.unchanged = {name: nets[name] for name in unchanged}
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
    """Random steps, in place, as long as the parameters are on average times `distance`."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in sorted(names):
            parameter = parameters[name]
            noise = torch.randn(parameter.shape, generator=draw).to(parameter)
            parameter += distance * noise * (parameter.abs().mean() + 0.1)


def _never_change(net_of: Mapping[str, str]) -> list[str]:
    """One finding for each net, of its parameters by name."""
    nets: dict[str, list[str]] = {}
    for name, net in net_of.items():
        nets.setdefault(net, []).append(name)
    return [
        f"parameter{'s' * (len(names) > 1)} {_listed(names)} never change{'s' * (len(names) == 1)} (in {EPOCHS} epochs)"
        for names in nets.values()
    ]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:FIRST]) + (f" and {len(names) - FIRST} more" if len(names) > FIRST else "")

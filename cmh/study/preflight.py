"""Before a search starts: whether its method runs at all, and searched hyperparameters that have no effect."""

from __future__ import annotations

import itertools
import traceback
import types
from collections.abc import Mapping

import torch

from cmh import apart, audits, datasets, methods, training
from cmh.config import Value
from cmh.errors import CmhError, ConfigError, NotFiniteError
from cmh.interfaces import SearchData
from cmh.nets import bags, state
from cmh.nets.transfer import as_net_input, to_device
from cmh.study.request import StudyRequest
from cmh.study.space import Range, Space
from cmh.training import Run

ITEMS = 4  # of the validation queries, that are encoded


def try_on_its_device(study: StudyRequest, gpus_per_trial: float | str | None) -> None:
    """`try_one_batch` where the trials will be: on a GPU in a process of its own, so that none is held afterwards."""
    if gpus_per_trial == 0:
        try_one_batch(study, "cpu")
    elif torch.cuda.is_available():
        apart.call(try_one_batch, study)
    else:
        try_one_batch(study)


def try_one_batch(study: StudyRequest, device: str = "auto") -> None:
    """Train the method on one batch, as every trial would begin, encode some items, and save its state.

    Raises ConfigError, with the traceback, where the method fails or its codes have another shape than promised. What
    lies in a configuration (a loss that is not finite, too little memory) is left to the trials.
    """
    module, data = methods.get(study.space.method), study.dataset.search()
    data = training.trained_on(module, data)
    run, config = training.parse(module, {**study.base, **study.run, "device": device})
    queries = data.validation_query.rows(slice(ITEMS))
    pictures = queries.pixels if run.finetune and queries.pixels is not None else queries.image
    try:
        with datasets.locked():
            place, _ = training.prepare(run)
            method, begin = training.build(module, run, config, data, place)
            batches = begin(1)
            terms = method.epoch(lambda: itertools.islice(batches(), 1))
            sum(float(value) for value in terms.values())
            state.save(method.state())
            with torch.inference_mode():
                image, text = (as_net_input(to_device(bags.tensor(rows), place)) for rows in (pictures, queries.read))
                found = {
                    "encode_image": method.encode_image(image),
                    "encode_text": method.encode_text(text),
                }
        wanted = (len(queries.labels), run.bits)
        if wrong := {name: tuple(codes.shape) for name, codes in found.items() if tuple(codes.shape) != wanted}:
            raise TypeError(", ".join(f"{name} gives {shape}, but must give {wanted}" for name, shape in wrong.items()))
    except (NotFiniteError, MemoryError, torch.OutOfMemoryError):
        return
    except CmhError:
        raise
    except Exception as error:  # whatever a method raises
        shown = "".join(traceback.format_exception(error.with_traceback(_within(error, str(module.__file__)))))
        raise ConfigError(
            f"method {module.__file__}: fails on one batch of {study.dataset.name}, before the search has started:"
            f" {type(error).__name__}: {error}\n{shown.rstrip()}"
        ) from error


def _within(error: Exception, file: str) -> types.TracebackType | None:
    """The traceback from where it enters the method's file; all of it where it does not."""
    found = error.__traceback__
    while found is not None and found.tb_frame.f_code.co_filename != file:
        found = found.tb_next
    return found or error.__traceback__


def warnings(study: StudyRequest) -> list[str]:
    """A line for each hyperparameter that is searched in vain, as it changes nothing."""
    on_gpu = study.run.get("finetune", False) and torch.cuda.is_available()
    return [f"warning: {line}" for line in (apart.call(_idle, study) if on_gpu else _idle(study))]


def _idle(study: StudyRequest) -> list[str]:
    run, _ = training.parse(methods.get(study.space.method), {**study.base, **study.run})
    return idle(study.space, run, study.dataset.search(), study.base)


def idle(space: Space, run: Run, data: SearchData, fixed: Mapping[str, Value] | None = None) -> list[str]:
    """One line for each hyperparameter of the space with the same codes at both ends of its range.

    All others have their `fixed` value, else the default. Where the range has conditions, they are set. Raises
    ConfigError where a fixed value breaks its rule.
    """
    module = methods.get(space.method)
    _, config = training.parse(module, dict(fixed or {}))
    conditions = {item.name: item.when for item in space.ranges}
    given = {name: _given(name, conditions) for name in conditions}
    ends = {item.name: ends for item in space.ranges if (ends := _ends(item)) is not None}
    return audits.idle_hyperparameters(module, run, config, data, ends, given=given)


def _ends(item: Range) -> tuple[Value, Value] | None:
    """Two values of a range; None where it has one."""
    if item.kind == "choice":
        return (item.choices[0], item.choices[-1]) if len(item.choices) > 1 else None
    return (int(item.low), int(item.high)) if item.kind == "int" else (item.low, item.high)


def _given(name: str, conditions: Mapping[str, tuple[tuple[str, Value], ...]]) -> dict[str, Value]:
    """The conditions of a hyperparameter, and theirs."""
    found: dict[str, Value] = {}
    for key, value in conditions.get(name, ()):
        found |= {**_given(key, conditions), key: value}
    return found

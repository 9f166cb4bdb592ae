"""What `python -m cmh.methods new NAME` writes: a method that already trains, its space, its experiment, its test."""

from __future__ import annotations

import keyword
from pathlib import Path

from cmh import methods
from cmh.errors import ConfigError

SPACE = """\
# python -m cmh.tune --method {name}.py --space {name}.yml
method: {name}
params:
  quantisation: {{float: [1.0e-3, 10], log: true}}
  lr_image: {{float: [1.0e-4, 1.0e-2], log: true}}
  lr_text: {{float: [1.0e-3, 1.0e-1], log: true}}
  batch_size: {{choice: [64, 128, 256]}}
start_from: []  # [paper] once `paper=` values stand in Config
search: {{sampler: priorband}}
schedule: {{asha: {{first_rung: 2, reduction: 3, strict: true, epochs: 30}}}}
objective: val_map
trials: 72
"""

EXPERIMENT = """\
# python -m cmh.reproduce {name}_clipart.yml
method: {name}.py
dataset: clipart
features: efficientnet-lite0
bits: 32
epochs: 30
seeds: [1]
selection: fixed
config:
  quantisation: 0.01
  lr_image: 1.0e-3
  lr_text: 0.01
  batch_size: 128
  hidden_image: 512
  hidden_text: 512
"""

TEST = '''\
"""What {name} promises. Run it with: python -m pytest test_{name}.py"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from cmh import datasets, methods, training
from cmh.nets import bags

METHOD = methods.get(str(Path(__file__).with_name("{name}.py")))


def data() -> datasets.SearchData:
    """800 clip arts to train on."""
    whole = datasets.load("clipart").search()
    return dataclasses.replace(whole, train=whole.train.rows(slice(800)))


def fit(**more: object) -> training.Fitted:
    run, config = training.parse(METHOD, {{"bits": 16, "epochs": 4, "threads": 1, **more}})
    return training.fit(METHOD, run, config, data())


def test_it_learns() -> None:
    assert fit(epochs=10).best.val_map > training.chance(data()) + 0.03


def test_same_seed_same_curve() -> None:
    first, second = ([[epoch.val_map, *epoch.terms.values()] for epoch in fit().curve] for _ in range(2))
    assert first == second


def test_codes() -> None:
    method, items = fit(epochs=1).method, data().train.rows(slice(50))
    for encoder, features in ((method.encode_image, items.image), (method.encode_text, items.text)):
        inputs = bags.tensor(features).float()
        outputs = encoder(inputs)
        assert outputs.shape == (50, 16)
        assert torch.allclose(outputs, torch.cat([encoder(row[None]) for row in inputs]), atol=1e-4)
'''


def write(name: str, folder: Path) -> list[Path]:
    """Write `NAME.py`, `NAME.yml`, `NAME_clipart.yml` and `test_NAME.py` into `folder`; returns their paths.

    Raises ConfigError for a name that cannot be a method's, and where one of the files exists.
    """
    taken = (*keyword.kwlist, *methods.names(), "new")
    if not name.isidentifier() or name != name.lower() or name[0] == "_" or name in taken:
        raise ConfigError(f"new {name}: must be a lower-case Python name that no method has, such as my_method")
    text = Path(__file__).with_name("_template.py").read_text(encoding="utf-8").replace("NAME: who", f"{name}: who")
    contents = {
        folder / f"{name}.py": text,
        folder / f"{name}.yml": SPACE.format(name=name),
        folder / f"{name}_clipart.yml": EXPERIMENT.format(name=name),
        folder / f"test_{name}.py": TEST.format(name=name),
    }
    if present := [str(path) for path in contents if path.exists()]:
        raise ConfigError(*(f"{path}: exists already; nothing was written" for path in present))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in contents.items():
            path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror})") from error
    return list(contents)

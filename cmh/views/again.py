"""The command that goes on with a study, put together of what its `study.yml` says."""

from __future__ import annotations

import shlex
from pathlib import Path

from cmh import datasets, files, methods
from cmh.errors import collected
from cmh.study import aside, folder
from cmh.study import space as spaces
from cmh.study.space import Space
from cmh.views.story import Story


def command(story: Story, trials: int) -> str:
    """`python -m cmh.tune …` with so many trials in all, further seeds included.

    A space file other than the method's own is not in the study: it stands there as SPACE.
    """
    said, about = story.identity, story.document
    shipped = _shipped(story)
    words = ["python -m cmh.tune", f"--method {_place(story, 'method_file', story.method)}"]
    words += ["--space SPACE"] if shipped is None else []
    dataset = _place(story, "dataset", story.dataset)
    words += [f"--dataset {dataset}"] if dataset != "clipart" else []
    features, seed, epochs, fixed = (said.get(key) for key in ("features", "seed", "epochs", "fixed"))
    words += [f"--features {features}"] if features not in (None, datasets.DEFAULT_FEATURES) else []
    words.append(f"--bits {story.bits}")
    words += [f"--epochs {epochs}"] if shipped is None or epochs != shipped.epochs else []
    words += [f"--seed {seed}"] if seed else []
    if isinstance(fixed, dict) and fixed and "from" not in about:
        words.append("--set " + " ".join(shlex.quote(f"{key}={value}") for key, value in fixed.items()))
    words += [f"--from {shlex.quote(files.placed(str(about['from']), story.folder))}"] if "from" in about else []
    further = aside.finalists_of(story.kept)
    words += [f"--finalists {further}"] if further > 1 else []
    out = story.folder.resolve().parent
    words += [f"--out {files.quoted(out)}"] if files.short(out) != "studies" else []
    return " ".join([*words, f"--trials {trials}"])


def _place(story: Story, key: str, name: str) -> str:
    """What `study.yml` has under a key, as it is from here; the name where it says nothing."""
    text = str(story.document.get(key, name))
    return shlex.quote(files.short(Path(files.placed(text, story.folder))) if "/" in text else text)


def _shipped(story: Story) -> Space | None:
    """The method's own space, where the study searches it."""
    fixed, epochs = story.identity.get("fixed"), story.identity.get("epochs")
    if story.method not in methods.names():
        return None
    space = collected(
        lambda: spaces.outline(
            spaces.find(story.method), method=story.method, fixed=fixed if isinstance(fixed, dict) else {}
        ),
        [],
    )
    if space is None:
        return None
    wanted = folder.described(space)
    wanted.pop("schedule") if epochs != space.epochs else None  # its rungs may not fit
    return space if all(story.identity.get(key) == value for key, value in wanted.items()) else None

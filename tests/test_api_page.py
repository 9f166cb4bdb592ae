"""docs/api.md: its examples run, and it names every loss there is as it is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from cmh import losses, methods

TEXT = (Path(__file__).parent.parent / "docs" / "api.md").read_text()
NO_LOSS = {"trainable", "in_pairs"}  # what trains; what pairs batches


def signature(function: Any) -> str:
    """The name and the names of what it takes, as the page writes them."""
    names, alone = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not alone:
            alone = True
            names.append("*")
        names.append("*" * (parameter.kind is parameter.VAR_POSITIONAL) + parameter.name)
    return f"{function.__name__}({', '.join(names)})"


def functions(module: ModuleType) -> set[str]:
    """The public functions that a module defines."""
    return {
        signature(value)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and name[0] != "_" and name not in NO_LOSS
    }


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its first two lines."""
    chapter = TEXT.split(f"\n## {heading}")[1].split("\n## ")[0]
    lines = [line for line in chapter.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_the_examples_run_in_their_order() -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/api.md", "exec"), names)  # noqa: S102


def test_every_shared_loss_is_there_as_it_is() -> None:
    assert {re.findall(r"`([^`]+)`", row[0])[0] for row in rows("Shared")} == functions(losses)


def test_every_methods_functions_are_there_as_they_are() -> None:
    shown: dict[str, set[str]] = {}
    sources: dict[str, str] = {}
    method = ""
    for first, called, _ in rows("Methods"):
        if first:
            method, sources[method] = re.fullmatch(r"`(\w+)` (.+)", first).groups()  # type: ignore[union-attr]
        shown.setdefault(method, set()).update(re.findall(r"`([^`]+)`", called))
    modules = {name: methods.get(name) for name in methods.names()}
    assert shown == {name: found for name, one in modules.items() if (found := functions(one))}  # type: ignore[arg-type]
    assert sources == {name: modules[name].SOURCE for name in sources}

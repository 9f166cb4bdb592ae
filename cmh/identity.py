"""What a number is of: whatever must not be mixed up is named and compared by one frozen value, a run's `Identity`.

Who uses it, what each leaves out (the constants below), and why:

- a checkpoint, a record and a per-query file leave out nothing: they are of one run.
- ROW: a row of the board is a mean over seeds.
- FOLDER: the folder of a run holds one folder for each of its seeds.
- OPENING: the test split is shown to a configuration. Another seed, thread count, device or version of torch, or the
  same pictures' features from another machine, show the same one again.
- STUDY: the hyperparameters are what is searched, and which device a trial gets is Ray's to say. (A trial that comes
  to another device is trained anew there.)

The code of a run is known by `code_hash`: of the method's file, and of every definition in cmh that it stands on,
without comments, docstrings and what is imported for types alone. A changed formula changes all methods that use it, a
comment or a plot changes none.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import io
import json
import os
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

from cmh.config import Value

ROW = ("seed",)
FOLDER = ("seed",)
OPENING = ("seed", "threads", "device", "torch", "arrays_sha256")
STUDY = ("config", "device")
MACHINE = ("threads", "device", "torch", "arrays_sha256")  # with these equal, a run gives the same numbers again

# Modules that no code hash holds: what they give is in the identity by content, or they change no number.
_NOT_CODE = {
    "cmh.config": "hyperparameters are in the identity as values",
    "cmh.datasets": "its arrays are in the identity by their hash",
    "cmh.features": "its arrays are in the identity by their hash",
    **dict.fromkeys(
        ("cmh.errors", "cmh.files", "cmh.machine", "cmh.signals", "cmh.cluster"), "words, disks and processes"
    ),
    "cmh.cache": "its arrays are in the identity by their hash",
    "cmh.interfaces": "what is promised, not what is computed",
    **dict.fromkeys(
        ("cmh.identity", "cmh.records", "cmh.ledger", "cmh.codes", "cmh.audits"), "they write numbers down"
    ),
    **dict.fromkeys(
        ("cmh.training.checkpoint", "cmh.training.run_folder", "cmh.training.identify", "cmh.training.trainable"),
        "they keep, name and report what was trained",
    ),
}
_STILL_CODE = ("cmh.features.backbones",)  # it builds the networks that are trained along
_TRAINER = (("cmh.training.fitting", "fit"), ("cmh.training.fitting", "test"))  # every method's numbers stand on these


# What stood for a run setting before there was one: what was written by then does not name it.
BEFORE: Mapping[str, Value] = {"validate_every": 1, "validation_database": 0, "scale": "none"}
BEFORE_FINETUNE: Mapping[str, Value] = {"context_length": 0, "optimizer_backbone": "method", "micro_batch": 0}


def dated(settings: Mapping[str, Value]) -> dict[str, Value]:
    """Run settings with what stood for those that they do not name, because they came later."""
    return {**BEFORE, **(BEFORE_FINETUNE if settings.get("finetune") is True else {}), **settings}


@dataclasses.dataclass(frozen=True)
class Identity:
    """Everything that decides a run's numbers."""

    method: str
    code: str
    dataset: str
    dataset_sha256: str  # of everything that the arrays are computed from
    split_sha256: str
    arrays_sha256: str  # of features, texts and labels as they are trained and tested on
    features: str  # image network, with a hash of weights that were given
    bits: int
    epochs: int  # that are trained: 1 for a closed form
    seed: int
    config: dict[str, Value]  # every hyperparameter of the method
    settings: dict[str, Value]  # run settings that change a number
    threads: int
    device: str  # cpu, or the name of the GPU
    torch: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", dated(self.settings))  # of an older run, too

    def without(self, *left_out: str) -> dict[str, object]:
        """The fields and values that are not left out."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in left_out}

    def digest(self, *left_out: str) -> str:
        """12 hex digits that name it in file names."""
        text = json.dumps(self.without(*left_out), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def differences(self, other: Identity, *left_out: str) -> list[str]:
        """One line `field: ours there, theirs here` for each difference; of mappings, for each differing key."""
        return differences(self.without(*left_out), other.without(*left_out))


def differences(there: Mapping[str, object], here: Mapping[str, object]) -> list[str]:
    """One line for each key whose values differ, nested mappings key by key."""
    lines = []
    for key in dict.fromkeys([*there, *here]):
        old, new = there.get(key), here.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new)
        elif old != new:
            lines.append(f"{key}: {_shown(old)} there, {_shown(new)} here")
    return lines


def _shown(value: object) -> str:
    """A value in a message; of a hash its head."""
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    return "nothing" if value is None else str(value)


def code_hash(path: Path) -> str:
    """16 hex digits of the method in the file `path` and of every definition in cmh that it stands on.

    A definition stands on another if it names it, wherever; of a module of which it names `module.this`, on this alone.
    Comments, docstrings and empty lines are left out, so that the hash is the same under every version of Python. Own
    modules beside the file of a method of one's own count too.
    """
    path = path.resolve()
    # asked of the disk once for each module, not once for each name in it
    file_of = functools.cache(lambda module: str(_file(module, path.parent) or ""))
    module_of = functools.cache(lambda file: _module(file, Path(file).stat().st_mtime_ns))
    reached: dict[tuple[str, str], str] = {}
    waiting = [(str(path), ""), *((str(_file(module)), name) for module, name in _TRAINER)]
    seen = set(waiting)
    while waiting:
        place = waiting.pop()
        module = module_of(place[0])
        one = (place[1],) if place[1] in module.names else ()
        for name in (*{"*": module.names, "": module.own}.get(place[1], one), *module.effects):
            if (place[0], name) in reached:
                continue
            text, needs = module.parts[name]
            reached[place[0], name] = text
            for needed, what in needs:
                source = file_of(needed)
                if source and what.startswith("."):  # of a module: a definition, a module in it, or made at run time
                    inner = file_of(needed + what)
                    known = what[1:] in module_of(source).names
                    source, what = (source, what[1:]) if known else (inner, "*") if inner else (source, "*")
                if source and (source, what) not in seen:
                    seen.add((source, what))
                    waiting.append((source, what))
    root = Path(__file__).parent
    name_of = functools.cache(
        lambda file: str(Path(file).relative_to(root) if Path(file).is_relative_to(root) else Path(file).name)
    )
    digest = hashlib.sha256()
    for (file, name), text in sorted(reached.items(), key=lambda item: (item[0][0].rpartition(os.sep)[2], item[0])):
        digest.update(f"{name_of(file)}\x1f{name}\x1f{text}\x1e".encode())
    return digest.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class _Module:
    """A source file cut into its top-level definitions: name → (bare text, what it needs of which modules)."""

    names: tuple[str, ...]  # with those that it imports
    own: tuple[str, ...]
    effects: tuple[str, ...]  # statements that define nothing: they run whenever the module is imported
    parts: dict[str, tuple[str, list[tuple[str, str]]]]


@functools.lru_cache(maxsize=256)
def _module(file: str, changed: int) -> _Module:
    source = Path(file).read_text(encoding="utf-8")
    tree = ast.parse(source)
    lines = _bare_lines(source, tree)
    own: dict[str, list[ast.stmt]] = {}
    aliases: dict[str, list[tuple[str, str]]] = {}
    effects: list[str] = []
    for statement in tree.body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            aliases |= dict(_imported(statement))
            continue
        if isinstance(statement, ast.If) and ast.unparse(statement.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        defined = list(_defined(statement))
        if not defined and not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            defined = [f"<{len(effects)}>"]
            effects += defined
        for name in defined:
            own.setdefault(name, []).append(statement)
    parts: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for name, statements in own.items():
        needs: list[tuple[str, str]] = []
        nodes = [node for statement in statements for node in ast.walk(statement)]
        of = {node.value: node.attr for node in nodes if isinstance(node, ast.Attribute)}
        for node in nodes:
            if isinstance(node, ast.Name):
                found = aliases.get(node.id, [(file, node.id)] if node.id in own else [])
                part = of.get(node)
                needs += [(where, f".{part}" if what == "*" and part else what) for where, what in found]
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                needs += [need for _, found in _imported(node) for need in found]
        parts[name] = "\n".join(_text(lines, statement) for statement in statements), needs
    for name, found in aliases.items():
        parts.setdefault(name, ("", found))
    names, defined_here = (tuple(name for name in some if name not in effects) for some in (parts, own))
    return _Module(names, defined_here, tuple(effects), parts)


def _imported(statement: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(name that it has here, the module and definition that this may be)."""
    for alias in statement.names:
        if isinstance(statement, ast.Import):
            yield alias.asname or alias.name.partition(".")[0], [(alias.name, "*")]
        elif statement.module:
            whole = f"{statement.module}.{alias.name}"
            yield alias.asname or alias.name, [(whole, "*"), (statement.module, alias.name)]


def _defined(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield statement.name
    elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))


def _file(module: str, beside: Path | None = None) -> Path | None:
    """The source of a module that belongs into a code hash: one of cmh, or one beside the method's file."""
    if module.endswith(".py"):  # a file as it stands
        return Path(module)
    root = Path(__file__).parent
    if module.partition(".")[0] == "cmh":
        if any(module == name or module.startswith(f"{name}.") for name in _NOT_CODE) and module not in _STILL_CODE:
            return None
        stem = root.joinpath(*module.split(".")[1:])
    elif beside is not None and not beside.is_relative_to(root):
        stem = beside.joinpath(*module.split("."))
    else:
        return None
    return next((file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.is_file()), None)


def _text(lines: list[str], statement: ast.stmt) -> str:
    first = min([statement.lineno, *(node.lineno for node in getattr(statement, "decorator_list", []))])
    kept = [line.rstrip() for line in lines[first - 1 : statement.end_lineno]]
    return "\n".join(line for line in kept if line)


def _bare_lines(source: str, tree: ast.Module) -> list[str]:
    """The lines without comments, docstrings and other strings that stand alone."""
    lines = source.split("\n")
    cuts: list[tuple[int, int, int, int]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            cuts.append((*token.start, *token.end))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            assert node.end_lineno is not None
            assert node.end_col_offset is not None
            start = len(lines[node.lineno - 1].encode()[: node.col_offset].decode())  # ast counts bytes
            end = len(lines[node.end_lineno - 1].encode()[: node.end_col_offset].decode())
            cuts.append((node.lineno, start, node.end_lineno, end))
    for first, start, last, end in sorted(cuts, reverse=True):
        head, tail = lines[first - 1][:start], lines[last - 1][end:]
        lines[first - 1 : last] = [head + tail] + [""] * (last - first)
    return lines

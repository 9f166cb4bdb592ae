"""One table per hyperparameter: `param()` states it, `build()` turns any mapping into a checked frozen dataclass.

Python, YAML files, `--set` and the sampler all come through `build`, so a value that gets in is legal.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path

from cmh.errors import ConfigError

Value = bool | int | float | str
Config = typing.TypeVar("Config")
Typed = typing.TypeVar("Typed", bool, int, float, str)

# Run settings that say how pictures and texts are taken: --set and experiment files may fix them like hyperparameters.
INPUTS = (
    *("scale", "finetune", "lr_backbone", "rotate", "hflip", "vflip", "erase", "amp", "checkpointing"),
    *("context_length", "optimizer_backbone", "warmup_backbone", "decay_backbone", "micro_batch"),
    *("validate_every", "validation_database"),
)


@dataclasses.dataclass(frozen=True)
class Param:
    """A hyperparameter: its default, legal values and help text; `paper` is the published value."""

    name: str
    kind: type
    default: Value
    paper: Value
    help: str
    low: float | None
    high: float | None
    above: float | None
    below: float | None
    choices: tuple[str, ...] | None

    def check(self, value: object) -> Value:
        """The value in its own type, or ValueError with the rule that it breaks."""
        converted = self._convert(value)
        if self.choices is not None and converted not in self.choices:
            raise ValueError(f"{self.name} is {shown(value)}, but must be one of {', '.join(self.choices)}")
        if isinstance(converted, (int, float)) and not isinstance(converted, bool) and not self._in_range(converted):
            raise ValueError(f"{self.name} is {shown(value)}, but must be {self.rule()}")
        return converted

    def rule(self) -> str:
        """The legal values in words, for messages and listings."""
        if self.choices is not None:
            return "one of " + ", ".join(self.choices)
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return "a text"
        bounds = [
            f"{sign} {_plain(bound)}"
            for sign, bound in ((">=", self.low), (">", self.above), ("<=", self.high), ("<", self.below))
            if bound is not None
        ]
        noun = "an integer" if self.kind is int else "a number"
        return " ".join([noun, *([" and ".join(bounds)] if bounds else [])])

    def _convert(self, value: object) -> Value:
        wrong = ValueError(f"{self.name} is {shown(value)}, but must be {self.rule()}")
        if self.kind in (bool, str):
            if isinstance(value, self.kind):
                return typing.cast(Value, value)
            raise wrong
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise wrong
        try:
            number = float(value)  # YAML 1.1 reads 1e-3 as a string
        except (ValueError, OverflowError):
            raise wrong from None
        if self.kind is float:
            return number
        if not number.is_integer():
            raise wrong
        return int(value) if isinstance(value, int) else int(number)

    def _in_range(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


def param(
    default: Typed,
    help: str,
    *,
    paper: Typed | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Iterable[str] | None = None,
) -> Typed:
    """A dataclass field that is a hyperparameter.

    `low`/`high` are inclusive bounds, `above`/`below` exclusive ones. `paper` is the published value where
    it differs from our default.
    """
    rules = {"low": low, "high": high, "above": above, "below": below}
    table = {
        **rules,
        "help": help,
        "paper": default if paper is None else paper,
        "choices": None if choices is None else tuple(choices),
    }
    field: Typed = dataclasses.field(default=default, metadata=table)
    return field


def params(cls: type) -> dict[str, Param]:
    """The hyperparameters of a Config class, in the order in which they are written."""
    types = typing.get_type_hints(cls)
    return {
        field.name: Param(
            name=field.name, kind=types[field.name], default=typing.cast(Value, field.default), **field.metadata
        )
        for field in dataclasses.fields(cls)
    }


def defaults(cls: type) -> dict[str, Value]:
    """The library's own values: what a field has if nobody sets it."""
    return {name: item.default for name, item in params(cls).items()}


def paper(cls: type) -> dict[str, Value]:
    """The published values of all fields."""
    return {name: item.paper for name, item in params(cls).items()}


def build(cls: type[Config], values: Mapping[str, object], *, where: str = "") -> Config:
    """`cls` with `values` checked and converted; what is absent takes its default.

    Raises ConfigError that lists every unknown key and every bad value at once.
    """
    table = params(cls)
    problems = [unknown(key, table) for key in values if key not in table]
    checked: dict[str, Value] = {}
    for name in table.keys() & values.keys():
        try:
            checked[name] = table[name].check(values[name])
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(*sorted(problems), heading=where)
    return cls(**checked)


def from_pairs(pairs: Iterable[str], problems: list[str], options: Iterable[str] = ()) -> dict[str, Value]:
    """The `KEY=VALUE` texts of `--set` as a mapping; its values are checked by `build`, with the class they belong to.

    Texts without `=`, and keys that are `options` of the command by themselves, are left out, and said in `problems`.
    """
    values: dict[str, Value] = {}
    for pair in pairs:
        key, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not key:
            problems.append(f"--set {pair}: must be KEY=VALUE")
        elif key in options:
            problems.append(f"--set {pair}: is an option of its own: --{key} {text}")
        else:
            values[key] = {"true": True, "false": False}.get(text.lower(), text)
    return values


def load_yaml(path: Path) -> object:
    """The document of a YAML file, read safely; a key that stands twice in one mapping is an error.

    Raises ConfigError with file and line.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: Loader, node: yaml.MappingNode) -> dict[object, object]:
        if not isinstance(node, yaml.MappingNode):  # !!map before something else
            raise yaml.constructor.ConstructorError(None, None, "a mapping must stand here", node.start_mark)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be one word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        loader.flatten_mapping(node)
        return dict(loader.construct_pairs(node, deep=True))

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not a UTF-8 text; save it as one") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    # PyYAML lets these through: the 13th month, !!int x, an integer of 5,000 digits, 1,000 brackets
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {type(error).__name__}: {error}") from error


def unknown(key: object, known: Iterable[str]) -> str:
    """One line for a key that does not exist, with the likely one."""
    names = sorted(known)
    close = difflib.get_close_matches(key, names, n=1) if isinstance(key, str) else []
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
    return f"{shown(key)} is not known; {hint}"


def shown(value: object) -> str:
    """A value in a message: its repr, shortened."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:150]}… ({len(text):,} characters)"


def _plain(number: float) -> str:
    return f"{number:g}"

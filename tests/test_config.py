"""Hyperparameter tables: what gets in, and what is said about the rest."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmh import config
from cmh.config import param
from cmh.errors import ConfigError


@dataclass(frozen=True)
class Config:
    rate: float = param(0.1, "a rate", above=0, high=10, paper=0.5)
    units: int = param(8, "units", low=0, high=64)
    share: float = param(0.0, "a share", low=0, below=1)
    free: float = param(0.0, "no bounds")
    nested: bool = param(False, "a switch")
    mode: str = param("linear", "a mode", choices=["linear", "log"])
    note: str = param("", "free text")


def problems(values: dict[str, object]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        config.build(Config, values)
    return error.value.problems


def test_defaults_and_published_values() -> None:
    assert config.build(Config, {}) == Config()
    assert config.defaults(Config)["rate"] == 0.1
    assert config.paper(Config) == {**config.defaults(Config), "rate": 0.5}
    assert list(config.params(Config)) == ["rate", "units", "share", "free", "nested", "mode", "note"]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("rate", "a number > 0 and <= 10"),
        ("units", "an integer >= 0 and <= 64"),
        ("share", "a number >= 0 and < 1"),
        ("free", "a number"),
        ("nested", "true or false"),
        ("mode", "one of linear, log"),
        ("note", "a text"),
    ],
)
def test_rules_in_words(name: str, rule: str) -> None:
    assert config.params(Config)[name].rule() == rule


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("rate", "1e-3", 0.001),  # YAML 1.1 reads it as a string
        ("rate", 1, 1.0),
        ("rate", 10, 10.0),
        ("units", "1e1", 10),
        ("units", 16.0, 16),
        ("units", 0, 0),
        ("share", 0, 0.0),
        ("free", -1e300, -1e300),
        ("nested", True, True),
        ("mode", "log", "log"),
    ],
)
def test_legal_values_get_their_own_type(name: str, value: object, read: object) -> None:
    got = getattr(config.build(Config, {name: value}), name)
    assert got == read
    assert type(got) is type(read)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("rate", value) for value in (0, -1, 10.1, "fast", True, None, [1], {}, float("nan"), float("inf"), "inf")),
        *(("units", value) for value in (1.5, -1, 65, "x", False, None, float("inf"), "nan", 10**400, -(10**400))),
        *(("share", value) for value in (1, -1e-9, "1.0")),
        *(("free", value) for value in (float("nan"), "-inf", 10**400, "")),
        *(("nested", value) for value in (1, "true", None)),
        *(("mode", value) for value in ("Linear", 1, None, ["log"])),
        ("note", 3),
    ],
)
def test_illegal_values_are_named_with_the_rule(name: str, value: object) -> None:
    (problem,) = problems({name: value})
    assert problem.startswith(f"{name} is ")
    assert problem.endswith(f"but must be {config.params(Config)[name].rule()}")


def test_numbers_that_python_does_not_write() -> None:
    assert problems({"units": 10**5000}) == (
        "units is a number of thousands of digits, but must be an integer >= 0 and <= 64",
    )
    assert problems({10**5000: 1})[0].startswith("a number of thousands of digits is not known")  # type: ignore[dict-item]


def test_a_long_value_is_shortened() -> None:
    (problem,) = problems({"mode": "x" * 10_000})
    assert len(problem) < 300
    assert "10,002 characters" in problem


def test_unknown_keys() -> None:
    assert problems({"unit": 1}) == ("'unit' is not known; did you mean 'units'?",)
    assert problems({"zzz": 1})[0].startswith("'zzz' is not known; known: free, mode, nested, note")
    assert problems({3: 1})[0].startswith("3 is not known; known:")  # type: ignore[dict-item]


def test_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        config.build(Config, {"rate": -1, "units": "x", "mod": "log", "mode": 3}, where="--set")
    assert len(error.value.problems) == 4
    assert str(error.value).startswith("--set:\n  - ")
    assert "several problems" in str(ConfigError("a", "b"))


@given(st.dictionaries(st.sampled_from([*config.params(Config), "other"]), st.from_type(object) | st.integers()))
def test_build_gives_a_config_or_a_config_error(values: dict[str, object]) -> None:
    try:
        built = config.build(Config, values)
    except ConfigError:
        return
    assert config.build(Config, vars(built)) == built  # legal values stay legal


def read(tmp_path: Path, text: str | bytes) -> object:
    path = tmp_path / "file.yml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return config.load_yaml(path)


def test_yaml_is_read(tmp_path: Path) -> None:
    text = "base: &base {a: 1}\nmore:\n  <<: *base\n  b: [1.0e-3, 1e-3]\n"
    assert read(tmp_path, text) == {"base": {"a": 1}, "more": {"a": 1, "b": [0.001, "1e-3"]}}
    assert read(tmp_path, "") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"file\.yml:3: not valid YAML: key 'a' stands twice"),
        ("a:\n  b: 1\n  b: 2\n", r"file\.yml:3: not valid YAML: key 'b' stands twice"),
        ("a: 1\nb: [1, 2\n", r"file\.yml:3: not valid YAML"),
        ("a: 1\n\tb: 2\n", r"file\.yml:2: not valid YAML"),
        ("a: *nothing\n", r"file\.yml:1: not valid YAML: found undefined alias"),
        ("a: !!python/object/apply:os.getcwd []\n", r"file\.yml:1: not valid YAML: could not determine a constructor"),
        ("? [1, 2]\n: 3\n", r"file\.yml:1: not valid YAML: a key must be one word"),
        ("? {a: 1}\n: 3\n", r"file\.yml:1: not valid YAML: a key must be one word"),
        ("a: 1\nb: !!map x\n", r"file\.yml:2: not valid YAML: a mapping must stand here"),
        ("a: 2001-13-01\n", "not valid YAML: ValueError"),
        ("a: !!int x\n", "not valid YAML: ValueError"),
        ("a: !!bool x\n", "not valid YAML: KeyError"),
        ("a: !!timestamp x\n", "not valid YAML: AttributeError"),
        ("a: " + "1" * 5000, "not valid YAML: ValueError"),
        ("[" * 5000, "not valid YAML: RecursionError"),
        ("a: \0", "not valid YAML"),
        (b"a: \xff\n", "is not a UTF-8 text"),
    ],
)
def test_yaml_that_cannot_be_read(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yml: cannot be read \(No such file"):
        config.load_yaml(tmp_path / "none.yml")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory"):
        config.load_yaml(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text("ab:-?[]{}&*!<>|'\"#,. \n\t01\0é", max_size=40) | st.binary(max_size=20))
def test_no_text_escapes_as_another_error(tmp_path: Path, text: str | bytes) -> None:
    with contextlib.suppress(ConfigError):
        read(tmp_path, text)

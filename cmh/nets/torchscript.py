"""The tensors of a TorchScript archive, such as OpenAI's `ViT-B-32.pt`, without running anything that is in it.

Such an archive is a zip file: `data.pkl` says in pickle's opcodes which module has which tensor, `data/NUMBER` are
their bytes, `code/` is a program. Of these the opcodes are read here as what they are, data: nothing is imported,
called or unpickled, and the program is not looked at.
"""

from __future__ import annotations

import dataclasses
import math
import pickletools
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from cmh.errors import DatasetError

MOST_OPCODES = 2**26  # bytes of data.pkl
MOST_PARTS = 2**18
KINDS = {
    **{"HalfStorage": torch.float16, "FloatStorage": torch.float32, "DoubleStorage": torch.float64},
    **{"BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32},
}
_MARK = object()
_PASSED_OVER = ("PROTO", "FRAME", "STOP")
_BUILT_OF_TWO = ("REDUCE", "NEWOBJ")  # a call, and its arguments


@dataclasses.dataclass
class _Made:
    """What an opcode would have called, with its arguments; of a module also its parts, by name."""

    called: object
    arguments: object
    parts: dict[object, object] = dataclasses.field(default_factory=dict)


def is_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive (other files of torch have no constants)."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())


def tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of the archive's module, by the names that its `state_dict()` would give. Raises DatasetError."""
    try:
        with zipfile.ZipFile(path) as archive:
            root = next(name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
            if archive.getinfo(root).file_size > MOST_OPCODES:
                raise ValueError("its data.pkl is too long")
            return _collected(_parsed(archive.read(root)), archive, root.removesuffix("data.pkl"))
    except Exception as error:  # a damaged zip file, or opcodes in any order
        line = (str(error).splitlines() or ["no message"])[0]
        raise DatasetError(f"{path}: is a damaged TorchScript archive ({type(error).__name__}: {line})") from error


def _parsed(opcodes: bytes) -> object:
    """The value that the opcodes describe. Raises ValueError for one that no module needs."""
    stack: list[object] = []
    memo: dict[object, object] = {}

    def to_mark() -> list[object]:
        place = max(number for number, value in enumerate(stack) if value is _MARK)
        taken = stack[place + 1 :]
        del stack[place:]
        return taken

    def pairs(some: list[object]) -> dict[object, object]:
        return dict(zip(some[::2], some[1::2], strict=True))

    for opcode, argument, _ in pickletools.genops(opcodes):
        name = opcode.name
        if name in _PASSED_OVER:
            continue
        if name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_TUPLE", "EMPTY_LIST"):
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name in ("TUPLE", "LIST"):
            stack.append(to_mark())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            n = int(name[-1])
            stack[-n:] = [stack[-n:]]
        elif name in _BUILT_OF_TWO:
            arguments = stack.pop()
            stack[-1] = _Made(stack[-1], arguments)
        elif name == "BINPERSID":
            stack[-1] = _Made("storage", stack[-1])
        elif name in ("SETITEM", "SETITEMS"):
            some = pairs([stack.pop(-2), stack.pop()] if name == "SETITEM" else to_mark())
            _parts_of(stack[-1]).update(some)
        elif name in ("APPEND", "APPENDS"):
            more = [stack.pop()] if name == "APPEND" else to_mark()
            if not isinstance(stack[-1], list):
                raise ValueError("something is appended to what is no list")
            stack[-1].extend(more)
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(state, dict):
                _parts_of(stack[-1]).update(state)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("NONE", "NEWTRUE", "NEWFALSE"):
            stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
        elif name == "GLOBAL" or isinstance(argument, (str, int, float)):
            stack.append(argument)  # a name, a text or a number
        else:
            raise ValueError(f"the opcode {name} is none that a module needs")
    return stack[-1]


def _parts_of(value: object) -> dict[object, object]:
    if isinstance(value, dict):
        return value
    if isinstance(value, _Made):
        return value.parts
    raise ValueError("parts are given to what has none")


def _collected(module: object, archive: zipfile.ZipFile, root: str) -> dict[str, Tensor]:
    """Tensors of a module and of the modules in it; what else it has (numbers, texts) is none of ours."""
    found: dict[str, Tensor] = {}
    waiting, seen = [("", module)], 0
    room = sum(member.file_size for member in archive.infolist())
    while waiting:
        name, value = waiting.pop()
        seen += 1
        if seen > MOST_PARTS:  # a part may stand in itself
            raise ValueError("it has too many parts")
        if not isinstance(value, _Made):
            continue
        if value.called == "torch._utils _rebuild_parameter" and isinstance(value.arguments, list):
            value = value.arguments[0]
        if isinstance(value, _Made) and value.called == "torch._utils _rebuild_tensor_v2":
            found[name] = _tensor(value.arguments, archive, root)
            room -= found[name].nbytes
            if room < 0:
                raise ValueError("its tensors are larger than it is")
        elif isinstance(value, _Made):
            waiting += [(f"{name}.{key}" if name else str(key), part) for key, part in value.parts.items()]
    return found


def _tensor(arguments: object, archive: zipfile.ZipFile, root: str) -> Tensor:
    """A tensor of (storage, offset, shape, strides, …). Raises ValueError where its bytes do not hold it."""
    assert isinstance(arguments, list)
    storage, offset, shape, strides = arguments[:4]
    _, kind, key, _, _ = storage.arguments
    dtype = KINDS[str(kind).rpartition(" ")[2]]
    member = archive.getinfo(f"{root}data/{key}")
    if member.compress_type != zipfile.ZIP_STORED:  # torch packs none: what it takes in memory is then its size here
        raise ValueError(f"{member.filename} is compressed")
    raw = torch.frombuffer(bytearray(archive.read(member)), dtype=dtype) if member.file_size else torch.zeros(0)
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if min([offset, *shape, *strides]) < 0 or (math.prod(shape) and max(last + 1, math.prod(shape)) > len(raw)):
        raise ValueError(f"{member.filename} is too short for its tensor")
    return raw.as_strided(shape, strides, offset).clone()

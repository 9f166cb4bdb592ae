"""Files of weights in the forms that are passed on: read for their tensors alone, or refused with one message."""

from __future__ import annotations

import dataclasses
import io
import logging
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cmh.errors import DatasetError
from cmh.features import backbones
from cmh.nets import clip, torchscript
from cmh.nets.weights import SHOWN

pytest.importorskip("open_clip")

NAME = "clip-tiny"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """Of a tiny CLIP, as numbers of 16 bits."""
    model = clip.build(NAME, None)
    draw = torch.Generator().manual_seed(7)
    return {name: torch.randn(one.shape, generator=draw).half().float() for name, one in model.state_dict().items()}


@pytest.fixture(scope="module")
def archive(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network as OpenAI saved its own: traced, with half of the bytes, and sizes beside the weights."""
    path = tmp_path_factory.mktemp("archive") / "ViT-tiny.pt"
    model = clip.FORMS[NAME].build().eval()
    model.load_state_dict(state)
    model.register_buffer("input_resolution", torch.tensor(32))
    inputs = torch.zeros(1, 3, 32, 32), torch.zeros(1, clip.PLACES, dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would have another form of saving
        torch.jit.trace(model, inputs, check_trace=False).half().save(path)
    return path


class Parts(nn.Module):
    """Tensors that lie in one storage, turned and shifted, an empty one, and a number."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.arange(24.0)
        self.register_buffer("whole", whole)
        self.register_buffer("turned", whole.view(4, 6).T[1:, 2:])
        self.register_buffer("none", torch.zeros(0, 3))
        self.register_buffer("number", torch.tensor(5, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """The same."""
        return x


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parts") / "parts.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Parts()).save(path)
    return path


def hugging_face(state: State) -> State:
    """The names that transformers gives, written the other way round than in the product."""
    found: State = {"logit_scale": state["logit_scale"]}
    for tower, ours in (("vision_model", "visual."), ("text_model", "")):
        blocks = f"{ours}transformer.resblocks."
        for layer in range(2):
            one, there = f"{blocks}{layer}.", f"{tower}.encoder.layers.{layer}."
            for kind in ("weight", "bias"):
                parts = state[f"{one}attn.in_proj_{kind}"].chunk(3)
                found |= {f"{there}self_attn.{k}_proj.{kind}": part for k, part in zip("qkv", parts, strict=True)}
                names = {"attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
                names |= {"ln_1": "layer_norm1", "ln_2": "layer_norm2"}
                found |= {f"{there}{new}.{kind}": state[f"{one}{old}.{kind}"] for old, new in names.items()}
    for kind in ("weight", "bias"):
        found[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
        found[f"vision_model.pre_layrnorm.{kind}"] = state[f"visual.ln_pre.{kind}"]
        found[f"vision_model.post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
    found["text_model.embeddings.token_embedding.weight"] = state["token_embedding.weight"]
    found["text_model.embeddings.position_embedding.weight"] = state["positional_embedding"]
    found["text_model.embeddings.position_ids"] = torch.arange(clip.PLACES)
    found["vision_model.embeddings.class_embedding"] = state["visual.class_embedding"]
    found["vision_model.embeddings.patch_embedding.weight"] = state["visual.conv1.weight"]
    found["vision_model.embeddings.position_embedding.weight"] = state["visual.positional_embedding"]
    found["visual_projection.weight"] = state["visual.proj"].T.contiguous()
    found["text_projection.weight"] = state["text_projection"].T.contiguous()
    return found


def saved(path: Path, state: Any) -> Path:
    torch.save(state, path)
    return path


def safetensors(path: Path, state: State) -> Path:
    pytest.importorskip("safetensors.torch").save_file(state, path)
    return path


FORMS: dict[str, Callable[[Path, State], Path]] = {
    "state dict": lambda place, state: saved(place / "clip.pt", state),
    "of 16 bits": lambda place, state: saved(place / "half.pt", {name: one.half() for name, one in state.items()}),
    "checkpoint of training": lambda place, state: saved(
        place / "epoch_3.pt", {"epoch": 3, "state_dict": {f"module.{name}": one for name, one in state.items()}}
    ),
    "Hugging Face, .bin": lambda place, state: saved(place / "pytorch_model.bin", hugging_face(state)),
    "Hugging Face, safetensors": lambda place, state: safetensors(place / "m.safetensors", hugging_face(state)),
    "open_clip, safetensors": lambda place, state: safetensors(place / "o.safetensors", state),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_network(
    form: str, state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = clip.build(NAME, FORMS[form](tmp_path, state)).state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], one) for name, one in state.items())
    assert not caplog.records  # numbers of 16 bits are OpenAI's, whose activation is the network's


def test_an_archive_is_read_without_running_anything(
    state: State, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((torch.jit, "load"), (torch, "load"), (pickle, "Unpickler"), (pickle, "loads")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("something was unpickled"))
    assert torchscript.is_archive(archive)
    found = clip.build(NAME, archive).state_dict()
    assert all(torch.equal(found[name], one) for name, one in state.items())
    tower = backbones.build_text(NAME, str(archive), 9)
    assert torch.equal(tower.clip.positional_embedding, state["positional_embedding"][:9])  # type: ignore[union-attr, index]


def test_a_tensor_that_is_a_part_of_another(parts: Path) -> None:
    found, wanted = torchscript.tensors(parts), Parts().state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], one) and found[name].dtype == one.dtype for name, one in wanted.items())


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this was run",))


Change = Callable[[str, bytes], bytes]  # of a member's name and bytes


def rewritten(archive: Path, place: Path, change: Change, pack: int = zipfile.ZIP_STORED) -> Path:
    """The archive with the bytes of its members changed."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(place, "w", pack) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return place


def opcodes(raw: bytes) -> Change:
    return lambda name, before: raw if name.endswith("/data.pkl") else before


def test_damaged_and_hostile_archives(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "bad.pt"

    def refused(change: Change, pack: int = zipfile.ZIP_STORED) -> str:
        rewritten(archive, place, change, pack)
        with pytest.raises(DatasetError) as error:
            clip.build(NAME, place)
        return str(error.value)

    assert "holds nothing of CLIP" in refused(opcodes(pickle.dumps(_Evil(), 2)))
    assert "is too short for its tensor" in refused(lambda name, raw: raw[:2] if "/data/" in name else raw)
    assert "is compressed" in refused(lambda _, raw: raw, zipfile.ZIP_DEFLATED)
    assert "the opcode" in refused(opcodes(pickle.dumps({1, 2}, 4)))
    assert "has none" in refused(opcodes(b"\x80\x02K\x01X\x01\x00\x00\x00aK\x02s."))
    assert "no list" in refused(opcodes(b"\x80\x02}K\x02a."))
    assert "too many parts" in refused(opcodes(_endless()))
    assert "larger than it is" in refused(opcodes(_repeated(archive)))
    assert "damaged TorchScript archive" in refused(opcodes(b""))
    assert "run" not in capsys.readouterr().out


def _endless() -> bytes:
    """A module that stands in itself."""
    return b"\x80\x02c__torch__\nM\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb."


def _repeated(archive: Path) -> bytes:
    """A module with the archive's largest tensor a thousand times."""
    with zipfile.ZipFile(archive) as old:
        raw = old.read(next(name for name in old.namelist() if name.endswith("/data.pkl")))
        largest = max(old.infolist(), key=lambda member: member.file_size)
        key, n = largest.filename.rpartition("/")[2], largest.file_size // 2
    assert pickletools.genops(raw)
    name = key.encode()
    tensor = b"".join(
        [
            b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nHalfStorage\n",
            b"X" + len(name).to_bytes(4, "little") + name + b"X\x03\x00\x00\x00cpuJ" + n.to_bytes(4, "little") + b"tQ",
            b"K\x00J" + n.to_bytes(4, "little") + b"\x85K\x01\x85\x89}tR",
        ]
    )
    items = b"".join(b"X\x04\x00\x00\x00" + f"{number:04d}".encode() + b"h\x01" for number in range(1000))
    return b"\x80\x02c__torch__\nM\n)\x81}(X\x01\x00\x00\x00z" + tensor + b"q\x01" + items + b"ub."


@settings(max_examples=60)
@given(place=st.integers(2, 4000), byte=st.integers(0, 255))
def test_whatever_the_opcodes_are_one_message_comes(
    place: int, byte: int, parts: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def change(name: str, raw: bytes) -> bytes:
        if not name.endswith("/data.pkl"):
            return raw
        at = place % len(raw)
        return raw[:at] + bytes([byte]) + raw[at + 1 :]

    path = rewritten(parts, tmp_path_factory.getbasetemp() / "fuzzed.pt", change)
    found: object = None
    try:
        found = torchscript.tensors(path)
    except DatasetError as error:
        found = str(error)
    assert isinstance(found, dict) or str(found).startswith(f"{path}: is a damaged TorchScript archive (")


def message(path: Path, name: str = NAME) -> list[str]:
    with pytest.raises(DatasetError) as error:
        clip.build(name, path)
    return str(error.value).splitlines()


def test_weights_that_do_not_fit_are_named_by_kind(state: State, tmp_path: Path) -> None:
    wider = {name: torch.zeros([2 * side for side in one.shape]) for name, one in state.items()}
    found = message(saved(tmp_path / "wide.pt", wider))
    assert len(found) == 3
    assert found[0].startswith(f"{tmp_path}/wide.pt: the weights of another network")
    n = sum(one.ndim > 0 for one in state.values())
    assert f"{n} tensors are of another shape: positional_embedding is 154 × 64 there, 77 × 32 here, " in found[1]
    assert found[1].count("there") == SHOWN
    assert (
        found[2]
        .strip()
        .endswith(
            "it is of a CLIP with image width 128, patches of 16, text width 64, and this network has image width 64,"
            " patches of 8, text width 32"
        )
    )
    some = {name: one for name, one in state.items() if name not in ("ln_final.bias", "visual.proj", "logit_scale")}
    found = message(saved(tmp_path / "some.pt", {**some, "head.weight": torch.zeros(2)}))
    assert [line.strip(" -") for line in found[1:]] == [
        "3 names are missing: ln_final.bias, logit_scale, …",
        "1 name is not the network's: head.weight",
    ]
    lacking = {name: one for name, one in hugging_face(state).items() if "1.self_attn.k_proj.bias" not in name}
    found = message(saved(tmp_path / "lacking.bin", lacking))
    assert "2 names are missing: transformer.resblocks.1.attn.in_proj_bias, visual.transformer" in found[1]


def test_one_tower_is_not_enough(state: State, tmp_path: Path) -> None:
    image = {name: one for name, one in state.items() if name.startswith("visual.")}
    text = {name: one for name, one in state.items() if not name.startswith("visual.")}
    bare = {name.removeprefix("visual."): one for name, one in image.items()}
    cases = {
        "it holds no text tower": image,
        "it holds no image tower": text,
        "it holds CLIP's image tower alone": bare,
        "it holds nothing of CLIP": {"conv1.weight": torch.zeros(2)},
    }
    for number, (words, part) in enumerate(cases.items()):
        assert words in message(saved(tmp_path / f"{number}.pt", part))[-1]


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("none")
    assert "no weights can be read from it" in message(tmp_path / "text.pt")[0]
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as file:
        file.writestr("a", "b")
    assert "must be a state dict saved by torch.save, a safetensors file" in message(tmp_path / "zip.pt")[0]
    assert "holds a list, but must hold a state dict" in message(saved(tmp_path / "list.pt", [1]))[0]
    buffer = io.BytesIO()
    torch.save(_Evil(), buffer)
    (tmp_path / "evil.pt").write_bytes(buffer.getvalue())
    assert "no weights can be read from it" in message(tmp_path / "evil.pt")[0]


def test_which_activation_is_meant(
    state: State, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    later = NAME + clip.GELU
    monkeypatch.setitem(clip.FORMS, later, dataclasses.replace(clip.FORMS[NAME], quick=False))
    own = saved(tmp_path / "own.pt", {name: one + 1e-6 for name, one in state.items()})
    published = saved(tmp_path / "published.pt", state)
    caplog.set_level(logging.WARNING)

    def said(name: str, path: Path) -> str:
        caplog.clear()
        clip.build(name, path)
        return " ".join(record.getMessage() for record in caplog.records)

    assert said(NAME, published) == said(NAME, archive) == said(later, own) == ""
    assert f"taken as trained with QuickGELU; if that is wrong, take --features {later}" in said(NAME, own)
    assert f"taken as trained with GELU; if that is wrong, take --features {NAME}" in said(later, published)
    assert f"whose weights were trained with QuickGELU; take --features {NAME}" in message(archive, later)[0]
    with torch.no_grad():
        pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        quick, other = (clip.build(name, published).eval().visual(pixels) for name in (NAME, later))
    assert not torch.allclose(quick, other)
    for name in ("clip-vit-b-32-gelu", "clip-vit-b-16-gelu"):
        with pytest.raises(DatasetError, match="has no weights of its own: name a file of weights trained with GELU"):
            clip.build(name, None)

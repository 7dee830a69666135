import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from segment_anything.build_sam import build_sam_vit_b
from torch import Tensor

from weaksam.config import SamConfig, Weights
from weaksam.errors import CheckpointError, ConfigError
from weaksam.io.builtin_weights import BUILTIN_WEIGHTS
from weaksam.io.state_dicts import read_state_dict
from weaksam.sam import sam_weights
from weaksam.sam.load import load_sam
from weaksam.sam.small import build_small_sam


@pytest.fixture(scope="module")
def small_state() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return build_small_sam().state_dict()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_load_from_either_format(tmp_path: Path, small_state: dict[str, Tensor], suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(small_state, path)
    sam = load_sam(SamConfig(name="builtin", weights=Weights(str(path))))
    assert all(torch.equal(tensor, small_state[key]) for key, tensor in sam.state_dict().items())
    assert not sam.training
    assert not any(parameter.requires_grad for parameter in sam.parameters())


@pytest.mark.slow
def test_the_official_layout_loads_and_is_recognised_under_a_wrong_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "sam_vit_b.pth"
    state = build_sam_vit_b().state_dict()
    torch.save(state, path)
    sam = load_sam(SamConfig(name="vit_b", weights=Weights(str(path))))
    for key in ("image_encoder.pos_embed", "mask_decoder.iou_token.weight", "image_encoder.blocks.11.mlp.lin2.bias"):
        assert torch.equal(sam.state_dict()[key], state[key])
    with pytest.raises(CheckpointError, match=r"they look like vit_b weights: set name=vit_b\).*missing.*surplus"):
        load_sam(SamConfig(name="builtin", weights=Weights(str(path))))


class _Run:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": _Run()}, "w.pth")
    with pytest.raises(CheckpointError, match="plain tensors"):
        read_state_dict(Path("w.pth"))
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "held", [{"model": {"a": torch.zeros(1)}}, [torch.zeros(1)], {}], ids=["nested", "list", "empty"]
)
def test_anything_but_tensors_by_name_is_refused(tmp_path: Path, held: object) -> None:
    torch.save(held, tmp_path / "w.pth")
    with pytest.raises(CheckpointError):
        load_sam(SamConfig(name="builtin", weights=Weights(str(tmp_path / "w.pth"))))


def test_the_shipped_weights_are_the_built_in_sam() -> None:
    sam, shipped = load_sam(SamConfig(name="builtin")), read_state_dict(BUILTIN_WEIGHTS["sam"].path).tensors
    assert all(torch.equal(tensor, shipped[key]) for key, tensor in sam.state_dict().items())


def test_a_model_of_which_no_weights_are_known_wants_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weaksam.sam.PUBLISHED", {})
    with pytest.raises(ConfigError, match=r"weights: expected a file or an address for vit_b"):
        sam_weights(SamConfig(name="vit_b"))

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.mobile_sam import E, encode, published_shapes, random_state
from weaksam.config import SamConfig, Weights
from weaksam.errors import CheckpointError
from weaksam.sam.encode import encode_image
from weaksam.sam.load import load_sam
from weaksam.sam.measure import measure_prompts
from weaksam.sam.mobile import TinyVitEncoder, from_published_names
from weaksam.sam.prompt import Prompt


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mobile_sam.pt"
    torch.save(random_state(), path)
    return path


def test_the_specification_has_the_published_sizes() -> None:
    shapes = published_shapes()
    parameters = {
        name: int(np.prod(shape)) for name, shape in shapes.items() if "running" not in name and "tracked" not in name
    }
    encoder = {name: size for name, size in parameters.items() if name.startswith(E)}
    gaussian = parameters["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]  # a buffer
    assert (len(shapes), len([name for name in shapes if name.startswith(E)])) == (439, 302)
    assert sum(encoder.values()) == 6_065_532
    assert sum(parameters.values()) - gaussian == 10_130_092


@torch.no_grad()
def test_the_encoder_computes_what_its_specification_says() -> None:
    state = random_state(1)
    encoder = TinyVitEncoder(256).eval()
    named = {k.removeprefix(E): v for k, v in from_published_names(state).items() if k.startswith(E)}
    encoder.load_state_dict(named)
    images = torch.randn(1, 3, 192, 256, generator=torch.Generator().manual_seed(2))
    expected = encode(state, images)
    assert encoder(images).shape == (1, 256, 12, 16)
    assert float((encoder(images) - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def test_a_published_file_answers_prompts(file: Path) -> None:
    sam = load_sam(SamConfig(name="vit_t", weights=Weights(str(file))))
    encoded = encode_image(sam, np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    assert encoded.features.shape == (1, 256, 64, 64)
    found = measure_prompts(sam, encoded, [Prompt(points_xy=np.array([[45, 30]], np.float32))], stability_offset=1.0)
    assert found.predicted_iou.shape == (3,)


@pytest.mark.slow  # on a processor without bfloat16 it is computed as if by hand
def test_half_precision_stays_near(file: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    exact, fast = (
        encode_image(load_sam(SamConfig(name="vit_t", weights=Weights(str(file)), precision=precision)), image).features
        for precision in ("exact", "fast")
    )
    assert float((exact - fast).abs().max()) < 0.1 * float(exact.abs().max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_encoder.neck.0.weight": None}, "1 missing: image_encoder.neck.0.weight"),
        (
            {"image_encoder.layers.9.blocks.0.a": torch.zeros(1)},
            r"1 surplus: image_encoder\.body\.layers\.9\.blocks\.0\.a",
        ),
        ({"image_encoder.head.scale": torch.zeros(1)}, r"1 surplus: image_encoder\.body\.head\.scale"),
        (
            {"image_encoder.layers.0.blocks.0.conv1.conv.weight": torch.zeros(1)},
            r"1 surplus: image_encoder\.layers\.0\.blocks\.0\.conv1\.conv\.weight",
        ),
        (
            {"image_encoder.layers.2.blocks.5.attn.attention_biases": torch.zeros(5, 49)},
            r"1 of another shape: .*stages\.2",
        ),
    ],
)
def test_another_file_is_refused_by_the_keys_that_differ(
    tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    state = {name: value for name, value in (random_state() | change).items() if value is not None}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=rf"w\.pt as vit_t: .*{message}"):
        load_sam(SamConfig(name="vit_t", weights=Weights(str(tmp_path / "w.pt"))))


def test_a_file_of_the_wrong_name_says_which_it_is(file: Path) -> None:
    with pytest.raises(CheckpointError, match="they look like vit_t weights: set name=vit_t"):
        load_sam(SamConfig(name="builtin", weights=Weights(str(file))))

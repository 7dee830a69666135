import math

import pytest
import torch

from tests.support.tolerances import assert_near, roundings_in
from weaksam.detectors.retrained.dino.deformable_attention import DeformableAttention, Geometry, attend
from weaksam.detectors.retrained.dino.neck import geometry_of

SHAPES = ((6, 5), (3, 4), (1, 1))
HEADS, WIDTH, POINTS, QUERIES = 2, 3, 4, 7


def random_input(seed=0):
    """Values, locations some of which lie outside the maps, and weights."""
    generator = torch.Generator().manual_seed(seed)
    cells = sum(h * w for h, w in SHAPES)
    values = torch.randn(2, cells, HEADS, WIDTH, generator=generator)
    locations = torch.rand(2, QUERIES, HEADS, len(SHAPES), POINTS, 2, generator=generator) * 1.6 - 0.3
    weights = torch.rand(2, QUERIES, HEADS, len(SHAPES), POINTS, generator=generator)
    return values, locations, weights


def bilinear(cells, x, y):
    """Read ``cells [h, w, D]`` at x, y counted in cells, whose centres lie at .5, 1.5, ...; 0 outside."""
    total = torch.zeros(cells.shape[2])
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    for column in (left, left + 1):
        for row in (top, top + 1):
            share = (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row))
            if 0 <= row < cells.shape[0] and 0 <= column < cells.shape[1]:
                total += share * cells[row, column]
    return total


def by_loop(values, locations, weights):
    rows = torch.zeros(2, QUERIES, HEADS, WIDTH)
    for b in range(2):
        for q in range(QUERIES):
            for head in range(HEADS):
                start = 0
                for level, (h, w) in enumerate(SHAPES):
                    cells = values[b, start : start + h * w, head].view(h, w, WIDTH)
                    start += h * w
                    for point in range(POINTS):
                        x, y = locations[b, q, head, level, point].tolist()
                        rows[b, q, head] += weights[b, q, head, level, point] * bilinear(cells, x * w, y * h)
    return rows.flatten(2)


def test_it_sums_what_a_slow_loop_sums():
    inputs = random_input()
    # Every point reads 4 cells; where it reads them is rounded in cells.
    assert_near(attend(inputs[0], SHAPES, *inputs[1:]), by_loop(*inputs), length=4 * POINTS * len(SHAPES))


def test_a_cell_is_read_exactly_at_its_centre_and_nothing_outside():
    values = torch.arange(6.0).view(1, 6, 1, 1)  # a map of 2 x 3 cells
    locations = torch.tensor([[0.5 / 3, 0.25], [2.5 / 3, 0.75], [0.0, 0.75], [1.5, 0.5]]).view(1, 4, 1, 1, 1, 2)
    found = attend(values, ((2, 3),), locations, torch.ones(1, 4, 1, 1, 1))
    assert_near(found.flatten(), [0.0, 5.0, 1.5, 0.0], length=4)  # on the border: half of cell 3


def test_no_queries_find_nothing():
    values, locations, weights = random_input()
    assert attend(values, SHAPES, locations[:, :0], weights[:, :0]).shape == (2, 0, HEADS * WIDTH)


@pytest.mark.parametrize("coordinates", [2, 4])
def test_it_equals_deformable_detrs_in_transformers(coordinates):
    pytest.importorskip("transformers", reason="TRANSFORMERS IS NOT INSTALLED: the oracle was not asked")
    from transformers import DeformableDetrConfig
    from transformers.models.deformable_detr.modeling_deformable_detr import (
        DeformableDetrMultiscaleDeformableAttention as Oracle,
    )

    dim = 16
    config = DeformableDetrConfig(d_model=dim, num_feature_levels=len(SHAPES), disable_custom_kernels=True)
    oracle = Oracle(config, num_heads=4, n_points=POINTS)
    ours = DeformableAttention(dim, heads=4, levels=len(SHAPES), points=POINTS)
    with torch.no_grad():
        for layer in (ours.offsets, ours.weights):
            torch.nn.init.normal_(layer.weight, std=0.3)
        pairs = {
            "offsets": "sampling_offsets",
            "weights": "attention_weights",
            "value": "value_proj",
            "output": "output_proj",
        }
        for name, theirs in pairs.items():
            getattr(oracle, theirs).load_state_dict(getattr(ours, name).state_dict())
    generator = torch.Generator().manual_seed(1)
    cells = sum(h * w for h, w in SHAPES)
    queries, values = torch.randn(2, 9, dim, generator=generator), torch.randn(2, cells, dim, generator=generator)
    references = torch.rand(2, 9, coordinates, generator=generator)
    shares = torch.rand(2, len(SHAPES), 2, generator=generator) * 0.5 + 0.5
    real = torch.rand(2, cells, generator=generator) < 0.8
    geometry = Geometry(SHAPES, shares, torch.zeros(2, cells, 2), real)
    expected, _ = oracle(
        queries,
        attention_mask=real,
        encoder_hidden_states=values,
        reference_points=references[:, :, None] * shares.repeat(1, 1, coordinates // 2)[:, None],
        spatial_shapes=torch.tensor(SHAPES),
        spatial_shapes_list=list(SHAPES),
        level_start_index=None,
    )
    length = roundings_in(ours) + 4 * POINTS * len(SHAPES)
    assert_near(ours(queries, references, values, geometry), expected, length=length)


def test_at_first_eight_heads_look_at_a_square_star():
    attention = DeformableAttention(16, heads=8, levels=1, points=2)
    star = attention.offsets.bias.view(8, 2, 2)
    directions = [[1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1]]
    assert_near(star[:, 0], torch.tensor(directions, dtype=torch.float32))
    assert_near(star[:, 1], 2 * star[:, 0])


def test_bf16_autocast_reads_at_the_same_places():
    torch.manual_seed(0)
    attention = DeformableAttention(16, heads=4, levels=1, points=2)
    geometry = geometry_of([(32, 32)], [8], torch.tensor([[256, 256]]))
    # Cells count up to 1023, so that a step of bf16 near the right end (1/256 of the map, 32 columns) would show.
    values = torch.zeros(1, 1024, 16)
    values[0, :, 0] = torch.arange(1024.0) % 32 / 32
    references = torch.tensor([[[0.97, 0.51, 0.02, 0.02]]])
    queries = torch.randn(1, 1, 16)
    exact = attention(queries, references, values, geometry)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(queries, references, values, geometry)
    assert_near(found, exact, dtype=torch.bfloat16)
    found.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in attention.parameters())

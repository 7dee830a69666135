import pytest
import torch

from weaksam.config import DinoConfig
from weaksam.detectors.retrained.dino.boxes import BACKGROUND, Objects, to_xyxy
from weaksam.detectors.retrained.dino.denoising import denoising_queries, hidden_queries


def objects_of(*counts, classes=3, seed=0):
    """Images of as many small boxes well inside the image, so that no noise reaches its border."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Objects(
            torch.randint(classes, (count,), generator=generator),
            torch.cat(
                [
                    torch.rand(count, 2, generator=generator) * 0.2 + 0.4,
                    torch.rand(count, 2, generator=generator) * 0.2 + 0.1,
                ],
                1,
            ),
        )
        for count in counts
    ]


@pytest.mark.parametrize(
    ("pairs", "counts", "groups"),
    [
        (100, (3, 1), 33),
        (100, (0, 7), 14),
        (100, (150,), 1),
        (5, (2, 5), 1),
        (4, (1, 1), 4),
        (100, (0, 0), 100),
        (0, (3,), 0),
    ],
)
def test_groups_share_the_budget_by_the_fullest_image(pairs, counts, groups):
    made = denoising_queries(objects_of(*counts), 3, DinoConfig(denoising_queries=pairs))
    most = max(counts)
    assert made.class_index.shape == made.present.shape == (len(counts), 2 * groups * most)
    assert made.boxes_cxcywh.shape == (len(counts), 2 * groups * most, 4)
    assert made.present.sum(dim=1).tolist() == [2 * groups * count for count in counts]
    assert made.group.tolist() == [g for g in range(groups) for _ in range(2 * most)]


def test_each_group_holds_all_positives_then_all_negatives():
    objects = objects_of(2, 1)
    made = denoising_queries(objects, 3, DinoConfig(denoising_queries=4))  # 2 groups of 2 pairs
    (a, b), (c,) = objects[0].class_index.tolist(), objects[1].class_index.tolist()
    B = BACKGROUND
    assert made.wanted.class_index.tolist() == [[a, b, B, B, a, b, B, B], [c, B, B, B, c, B, B, B]]
    assert made.present.tolist() == [[True] * 8, [True, False] * 4]
    for start in (0, 2, 4, 6):
        torch.testing.assert_close(made.wanted.boxes_cxcywh[0, start : start + 2], objects[0].boxes_cxcywh)


@pytest.mark.parametrize(("label_noise", "share"), [(0.5, 0.25), (1.0, 0.5), (0.0, 0.0)])
def test_half_of_the_label_noise_draws_another_class(label_noise, share):
    torch.manual_seed(0)
    objects = objects_of(10, classes=20)
    made = denoising_queries(objects, 20, DinoConfig(denoising_queries=20_000, label_noise=label_noise))
    own = objects[0].class_index.repeat(4000)
    changed = (made.class_index[0] != own).float().mean().item()
    assert changed == pytest.approx(share * 19 / 20, abs=0.01)  # one draw in 20 is the class itself
    assert made.class_index.min() >= 0
    assert made.class_index.max() < 20


@pytest.mark.parametrize("box_noise", [1.0, 0.4])
def test_positives_move_less_and_negatives_more_than_box_noise(box_noise):
    torch.manual_seed(0)
    objects = objects_of(5)
    made = denoising_queries(objects, 3, DinoConfig(denoising_queries=5000, box_noise=box_noise))
    w, h = objects[0].boxes_cxcywh[:, 2:].unbind(dim=1)
    half_sides = torch.stack([w, h, w, h], dim=1).repeat(2000, 1) / 2
    moved = (to_xyxy(made.boxes_cxcywh[0]) - to_xyxy(objects[0].boxes_cxcywh).repeat(2000, 1)) / half_sides / box_noise
    positive, negative = (moved.view(1000, 2, 5, 4)[:, kind] for kind in (0, 1))
    assert positive.abs().max() < 1.001
    assert positive.abs().min() < 0.01
    assert negative.abs().min() > 0.999
    assert 1.99 < negative.abs().max() < 2.001
    for kind in (positive, negative):
        assert (kind > 0).float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_disturbed_boxes_end_at_the_border():
    whole = [Objects(torch.tensor([0]), torch.tensor([[0.5, 0.5, 1.0, 1.0]]))]
    made = denoising_queries(whole, 1, DinoConfig(denoising_queries=500))
    corners = to_xyxy(made.boxes_cxcywh)
    assert corners.min() >= -1e-6
    assert corners.max() <= 1 + 1e-6


def test_identical_objects_are_disturbed_each_by_itself():
    twins = [Objects(torch.tensor([1, 1]), torch.tensor([[0.5, 0.5, 0.2, 0.2]] * 2))]
    made = denoising_queries(twins, 3, DinoConfig(denoising_queries=2))
    assert made.boxes_cxcywh[0, :2].unique(dim=0).shape == (2, 4)


def test_who_may_see_whom_by_hand():
    hidden = hidden_queries(torch.tensor([0, 0, 1, 1]), 2)
    assert hidden.int().tolist() == [
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
    ]
    assert not hidden_queries(torch.zeros(0, dtype=torch.int64), 3).any()

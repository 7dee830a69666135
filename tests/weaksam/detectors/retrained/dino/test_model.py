"""DINO as a whole, on the small backbone."""

import math

import pytest
import torch

from tests.support.tolerances import assert_near, roundings_in
from weaksam.boxes import iou_matrix
from weaksam.config import DetectConfig, DinoConfig, QueryDropConfig, RetrainConfig
from weaksam.datasets.shapes import data_set_seed, draw
from weaksam.detectors.retrained.base import Targets
from weaksam.detectors.retrained.dino.boxes import objects_of
from weaksam.detectors.retrained.dino.denoising import denoising_queries
from weaksam.detectors.retrained.dino.model import Dino
from weaksam.errors import ConfigError

CLASSES = 3
TF32 = torch.float16  # a GPU multiplies float32 in TF32, which has as many digits
SMALL = {
    "levels": 3,
    "finest_stride": 4,
    "dim": 32,
    "heads": 4,
    "points": 2,
    "encoder_layers": 1,
    "decoder_layers": 3,
    "feedforward_dim": 64,
    "queries": 10,
    "denoising_queries": 6,
}


def config_of(score_threshold=0.0, **options):
    return RetrainConfig(
        backbone="small",
        freeze_stages=1,
        detector=DinoConfig(**(SMALL | options)),
        test=DetectConfig(score_threshold=score_threshold),
    )


def detector_of(*, classes=CLASSES, score_threshold=0.0, **options):
    """A detector whose heads already tell cells and queries apart."""
    torch.manual_seed(0)
    detector = Dino(config_of(score_threshold, **options), classes)
    for head in detector.box_heads:
        torch.nn.init.normal_(head[-1].weight, std=0.1)
    return detector


def images_of(*sizes_hw):
    """Random views of these sizes, padded to one size, as they come to a detector."""
    generator = torch.Generator().manual_seed(0)
    height, width = (-(-max(size[axis] for size in sizes_hw) // 32) * 32 for axis in (0, 1))
    images = torch.zeros(len(sizes_hw), 3, height, width)
    for image, (h, w) in zip(images, sizes_hw, strict=True):
        image[:, :h, :w] = torch.randn(3, h, w, generator=generator)
    return images, torch.tensor(sizes_hw)


def targets_of(*rows):
    """Rows of boxes per image; classes count up."""
    return [Targets(torch.tensor(boxes).view(-1, 4).float(), torch.arange(len(boxes)) % CLASSES) for boxes in rows]


BOXES = targets_of([[4, 4, 30, 40], [20, 10, 60, 50]], [], [[0, 0, 33, 40]])
SIZES = ((64, 64), (64, 96), (40, 33))


def test_a_view_is_detected_in_a_batch_as_alone():
    detector = detector_of().eval()
    images, sizes = images_of((128, 96), (64, 64), (40, 33))
    with torch.no_grad():
        maps = detector.backbone(images)
        together = detector(maps, sizes)
        for row, (height, width) in enumerate(sizes.tolist()):
            h, w = (-(-side // 32) * 32 for side in (height, width))
            own = [m[row : row + 1, :, : h // stride, : w // stride] for m, stride in zip(maps, (4, 8), strict=True)]
            alone = detector(own, sizes[row : row + 1])
            for batched, single in zip(
                [together.encoder, *together.layers], [alone.encoder, *alone.layers], strict=True
            ):
                for a, b in zip(batched, single, strict=True):
                    assert_near(a[row : row + 1], b, length=roundings_in(detector))


def test_an_image_with_fewer_cells_than_queries_is_detected_in_a_batch_as_alone():
    detector = detector_of(queries=400).eval()
    images, sizes = images_of((128, 128), (32, 32))  # 84 cells of its own
    with torch.no_grad():
        maps = detector.backbone(images)
        together = detector(maps, sizes)
        alone = detector([maps[0][1:, :, :8, :8], maps[1][1:, :, :4, :4]], sizes[1:])
    assert together.present.sum(dim=1).tolist() == [400, 84]
    assert alone.present.shape == (1, 84)
    for a, b in zip(together.layers[-1], alone.layers[-1], strict=True):
        assert_near(a[1:, :84], b, length=roundings_in(detector))
    found = detector.predict(images, sizes)[1]
    assert len(found.score) == 84 * CLASSES


def test_ordinary_queries_do_not_see_denoising_queries():
    detector = detector_of().eval()
    images, sizes = images_of(*SIZES)
    objects = [objects_of(own, size) for own, size in zip(BOXES, sizes, strict=True)]
    denoising = denoising_queries(objects, CLASSES, detector.options)
    D = denoising.class_index.shape[1]
    assert D == 3 * 2 * 2
    with torch.no_grad():
        maps = detector.backbone(images)
        for plain, taught in zip(detector(maps, sizes).layers, detector(maps, sizes, denoising).layers, strict=True):
            for a, b in zip(plain, taught, strict=True):
                assert_near(a, b[:, D:], length=roundings_in(detector))


def test_a_box_loss_teaches_its_layer_and_the_one_before():
    detector = detector_of().train()
    outputs = detector(detector.backbone(images_of(*SIZES)[0]), torch.tensor(SIZES))
    last = [head[-1].weight for head in detector.box_heads]  # the encoder's, then those of three decoder layers
    taught = {0: {0}, 1: {1}, 2: {1, 2}, 3: {2, 3}}  # where the queries start is not taught by the decoder
    for number, predictions in enumerate([outputs.encoder, *outputs.layers]):
        grads = torch.autograd.grad(predictions.boxes_cxcywh.sum(), last, retain_graph=True, allow_unused=True)
        assert {k for k, grad in enumerate(grads) if grad is not None and grad.any()} == taught[number]


def test_refined_boxes_are_those_the_next_layer_looks_at():
    detector = detector_of().eval()
    looked_at = []
    for layer in detector.decoder:
        layer.register_forward_hook(lambda _, inputs, __: looked_at.append(inputs[2]))
    with torch.no_grad():
        outputs = detector(detector.backbone(images_of(*SIZES)[0]), torch.tensor(SIZES))
    predicted = [outputs.encoder, *outputs.layers]
    for boxes, predictions in zip(looked_at, predicted, strict=False):
        assert torch.equal(boxes, predictions.boxes_cxcywh)


def test_at_first_everything_is_as_unlikely_as_the_prior():
    torch.manual_seed(0)
    detector = Dino(config_of(), CLASSES).eval()
    for head in detector.class_heads:
        torch.nn.init.zeros_(head.weight)
    (found,) = detector.predict(*images_of((64, 64)))
    assert_near(found.score, torch.full((30,), 0.01), magnitude=0.01 * math.log(99))  # the logit is -ln 99


def test_the_best_pairs_of_a_query_and_a_class_are_predicted():
    detector = detector_of(max_detections=7).train()
    images, sizes = images_of(*SIZES)
    found = detector.predict(images, sizes)
    assert detector.training
    with torch.no_grad():
        class_logits, boxes = detector.eval()(detector.backbone(images), sizes).layers[-1]
    for row, (view, (height, width)) in enumerate(zip(found, SIZES, strict=True)):
        best = class_logits[row].sigmoid().flatten().sort(descending=True)
        assert_near(view.score, best.values[:7], length=roundings_in(detector))
        assert view.class_index.tolist() == (best.indices[:7] % CLASSES).tolist()
        cx, cy, w, h = (boxes[row, best.indices[:7] // CLASSES] * torch.tensor([width, height, width, height])).unbind(
            1
        )
        corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=1)
        limits = torch.tensor([width, height, width, height], dtype=torch.float32)
        assert_near(view.boxes_xyxy, corners.clamp(min=0).minimum(limits), length=roundings_in(detector))
        assert view.class_index.dtype == torch.int64


def test_a_detection_scores_more_than_the_threshold():
    everything = detector_of().predict(*images_of(*SIZES))
    threshold = everything[0].score[4].item()
    found = detector_of(score_threshold=threshold).predict(*images_of(*SIZES))
    assert len(found[0].score) == 4
    assert len(detector_of(score_threshold=0.999).predict(*images_of(*SIZES))[1].boxes_xyxy) == 0


@pytest.mark.parametrize("targets", [BOXES, targets_of([], [], [])], ids=["boxes", "no boxes"])
def test_the_gradient_reaches_whatever_is_not_frozen(targets):
    detector = detector_of().train()
    losses, _ = detector.training_losses(*images_of(*SIZES), targets, 0)
    sum(losses.values()).backward()
    for name, parameter in detector.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_losses_have_the_same_names_whatever_there_is():
    detector = detector_of().train()
    batch = images_of(*SIZES)
    some, counts = detector.training_losses(*batch, BOXES, 0)
    none, no_counts = detector.training_losses(*batch, targets_of([], [], []), 0)
    assert list(some) == list(none)
    assert list(counts) == list(no_counts)
    assert all(value > 0 for value in some.values())
    assert counts["foreground"] == 1
    assert no_counts["foreground"] == 0
    assert {value.dtype for value in (*some.values(), *counts.values())} == {torch.float32}


def test_it_trains_without_denoising():
    detector = detector_of(denoising_queries=0).train()
    losses, _ = detector.training_losses(*images_of(*SIZES), BOXES, 0)
    sum(losses.values()).backward()
    assert losses["denoising_class"] == losses["denoising_box"] == 0
    assert losses["class"] > 0


def test_identical_boxes_train():
    detector = detector_of().train()
    twins = targets_of([[8, 8, 40, 40]] * 5, [[8, 8, 40, 40]] * 5, [])
    losses, counts = detector.training_losses(*images_of(*SIZES), twins, 0)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad.isfinite().all() for p in detector.parameters() if p.requires_grad)
    assert counts["foreground"] * 3 == 10


def test_the_same_seed_gives_the_same_losses_and_gradients():
    def once(seed):
        detector = detector_of().train()
        torch.manual_seed(seed)
        losses, _ = detector.training_losses(*images_of(*SIZES), BOXES, 0)
        sum(losses.values()).backward()
        return losses, [p.grad for p in detector.parameters() if p.requires_grad]

    (losses, grads), (again, grads_again) = once(3), once(3)
    assert losses == again
    assert all(torch.equal(a, b) for a, b in zip(grads, grads_again, strict=True))
    other, _ = once(4)
    assert other["class"] == losses["class"]  # the seed decides how boxes are disturbed, and nothing else here
    assert other["denoising_box"] != losses["denoising_box"]


def test_bf16_autocast_is_finite_and_near_float32():
    detector = detector_of().train()
    batch = images_of(*SIZES)
    torch.manual_seed(1)
    exact, _ = detector.training_losses(*batch, BOXES, 0)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = detector.training_losses(*batch, BOXES, 0)
        found = detector.predict(*batch)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in detector.parameters() if p.requires_grad)
    for name, value in losses.items():
        assert value.dtype == torch.float32
        assert_near(value, exact[name], length=4, dtype=torch.bfloat16)  # backbone, neck, encoder, decoder
    assert all(view.score.isfinite().all() and view.boxes_xyxy.dtype == torch.float32 for view in found)


def test_a_diverged_training_says_so():
    detector = detector_of().train()
    torch.nn.init.constant_(detector.class_heads[-1].weight, float("nan"))
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        detector.training_losses(*images_of(*SIZES), BOXES, 0)


def test_the_backbone_learns_at_its_own_rate():
    detector = detector_of()
    others, backbone = detector.parameter_groups(RetrainConfig(lr=0.01, backbone_lr_factor=0.1))
    assert (others["lr"], backbone["lr"]) == (0.01, 0.001)
    assert sum(p.numel() for group in (others, backbone) for p in group["params"]) == sum(
        p.numel() for p in detector.parameters() if p.requires_grad
    )


def test_published_dino_has_the_published_size():
    config = RetrainConfig(detector=DinoConfig(), backbone="resnet50.torchvision")
    with torch.device("meta"):
        detector = Dino(config, 20)
    assert detector.neck.strides == [8, 16, 32, 64]
    millions = sum(p.numel() for p in detector.parameters()) / 1e6
    assert 46 < millions < 48  # published: 47 million with 80 classes


@pytest.mark.parametrize(
    ("finest_stride", "levels", "strides"),
    [(4, 3, [4, 8, 16]), (8, 2, [8, 16]), (8, 1, [8]), (4, 1, [8]), (1, 2, [4, 8]), (5, 3, [8, 16, 32])],
)
def test_the_coarsest_maps_of_the_backbone_are_used_first(finest_stride, levels, strides):
    detector = detector_of(finest_stride=finest_stride, levels=levels)
    assert detector.neck.strides == strides
    images, sizes = images_of(*SIZES)
    assert len(detector.predict(images, sizes)) == 3


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dim": 100}, "dim"),
        ({"finest_stride": 16}, "finest_stride"),
        ({"drop": QueryDropConfig(layers=(4,))}, "drop.layers"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, named):
    with pytest.raises(ConfigError, match=rf"^{named}: "):
        detector_of(**options)


@pytest.mark.gpu
def test_a_gpu_computes_the_cpus_losses_and_detections():
    detector = detector_of(denoising_queries=0).train()  # disturbances are drawn on the device
    images, sizes = images_of(*SIZES)
    on_cpu, _ = detector.training_losses(images, sizes, BOXES, 0)
    found_on_cpu = detector.predict(images, sizes)
    detector.cuda()
    on_gpu, _ = detector.training_losses(
        images.cuda(), sizes.cuda(), [Targets(*(t.cuda() for t in b[:2])) for b in BOXES], 0
    )
    for name, value in on_gpu.items():
        assert_near(value, on_cpu[name], length=4, dtype=TF32)
    for a, b in zip(detector.predict(images.cuda(), sizes.cuda()), found_on_cpu, strict=True):
        assert_near(a.score, b.score, length=4, dtype=TF32)


@pytest.mark.slow
def test_it_learns_one_drawn_image():
    drawing = draw(data_set_seed(0, "train", 1), 64)
    assert drawing.class_index.tolist() == [3, 4]
    image = torch.from_numpy(drawing.image).permute(2, 0, 1)[None] / 255 - 0.5
    sizes = torch.tensor([[64, 64]])
    truth = Targets(torch.from_numpy(drawing.boxes_xyxy), torch.from_numpy(drawing.class_index))
    detector = detector_of(classes=6, levels=2).train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=3e-3)
    for step in range(80):
        losses, _ = detector.training_losses(image, sizes, [truth], step)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        optimizer.step()
    (found,) = detector.predict(image, sizes)
    for box, class_index in zip(*truth[:2], strict=True):
        best = (found.class_index == class_index).nonzero()[0]  # scores fall
        assert iou_matrix(found.boxes_xyxy[best], box[None]).item() > 0.75
    assert set(found.class_index[found.score > 0.25].tolist()) == {3, 4}

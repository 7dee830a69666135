"""The built-in small SAM: it is segment-anything's own, it trains, and what ships is good enough to prompt."""

import logging

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.modeling import MaskDecoder, TwoWayTransformer

from tests.support.tolerances import assert_near, near, roundings_in
from tools import train_small_sam as train_small
from tools.train_small_sam import Recipe, decode, learning_rate, load_weights, mask_losses, training_loss
from weaksam.datasets.shapes import draw, reserved_seed
from weaksam.io.builtin_weights import BUILTIN_WEIGHTS
from weaksam.sam import small

TINY = Recipe(steps=4, images=4, batch_size=2, warmup_steps=2)


@pytest.fixture(scope="module")
def shipped():
    return load_weights(BUILTIN_WEIGHTS["sam"].path)


@pytest.fixture(scope="module")
def drawings():
    return [draw(reserved_seed("sam-test", index), 128) for index in range(10)]


@pytest.fixture(scope="module")
def corpus(drawings):
    return train_small.Corpus(
        images=np.stack([drawing.image for drawing in drawings]),
        regions=np.stack([(d.instance_map, d.part_map, d.distractor_map) for d in drawings]),
    )


def test_the_shipped_file_is_small_and_half_precision():
    assert BUILTIN_WEIGHTS["sam"].path.stat().st_size < 10_000_000
    state = train_small.load_file(BUILTIN_WEIGHTS["sam"].path)
    assert {value.dtype for value in state.values()} == {torch.float16}


def test_the_decoder_weights_load_into_an_unmodified_decoder(shipped):
    decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(depth=2, embedding_dim=96, mlp_dim=256, num_heads=6),
        transformer_dim=96,
        iou_head_depth=3,
        iou_head_hidden_dim=96,
    )
    decoder.load_state_dict(shipped.mask_decoder.state_dict(), strict=True)
    assert type(shipped.mask_decoder) is MaskDecoder


def test_the_centre_of_an_object_gives_its_mask(shipped, drawings):
    predictor = SamPredictor(shipped)
    best = []
    for drawing in drawings:
        predictor.set_image(drawing.image)
        for k in np.flatnonzero(~drawing.difficult):
            truth = drawing.instance_map == k + 1
            masks, _, _ = predictor.predict(
                point_coords=train_small._deepest_pixel(truth)[None], point_labels=np.ones(1), multimask_output=True
            )
            best.append(max((mask & truth).sum() / (mask | truth).sum() for mask in masks))
    assert np.mean(best) > 0.7


def test_points_on_the_background_have_a_low_predicted_iou(shipped, drawings):
    predictor = SamPredictor(shipped)
    rng = np.random.default_rng(0)
    scores = []
    for drawing in drawings:
        predictor.set_image(drawing.image)
        ground = (drawing.instance_map == 0) & (drawing.distractor_map == 0)
        points = train_small.random_points(ground, 5, rng)
        scores += [predictor.predict(point_coords=point[None], point_labels=np.ones(1))[1].mean() for point in points]
    assert np.mean(scores) < 0.2


def test_the_automatic_mask_generator_runs(shipped, drawings):
    generator = SamAutomaticMaskGenerator(shipped, points_per_side=6, pred_iou_thresh=0.3, stability_score_thresh=0.3)
    masks = generator.generate(drawings[0].image)
    assert masks
    assert masks[0]["segmentation"].shape == (128, 128)


def test_images_of_any_shape_are_taken(shipped):
    predictor = SamPredictor(shipped)
    predictor.set_image(np.zeros((50, 200, 3), np.uint8))
    masks, _, _ = predictor.predict(point_coords=np.array([[100, 25]]), point_labels=np.ones(1))
    assert masks.shape == (3, 50, 200)


def test_the_batched_decoder_gives_what_the_published_one_gives_image_by_image(shipped):
    torch.manual_seed(0)
    embeddings = torch.randn(2, small.PROMPT_DIM, small.GRID_SIZE, small.GRID_SIZE)
    points = torch.rand(6, 1, 2) * small.IMAGE_SIZE
    sparse, dense = shipped.prompt_encoder(points=(points, torch.ones(6, 1)), boxes=None, masks=None)
    with torch.no_grad():
        logits, predicted = decode(shipped, embeddings, sparse, dense)
        for image in range(2):
            rows = slice(3 * image, 3 * image + 3)
            expected = shipped.mask_decoder(
                embeddings[image : image + 1], shipped.prompt_encoder.get_dense_pe(), sparse[rows], dense[rows], True
            )
            assert_near(logits[rows, 1:], expected[0], length=roundings_in(shipped.mask_decoder))
            assert_near(predicted[rows, 1:], expected[1], length=roundings_in(shipped.mask_decoder))


@pytest.mark.parametrize(
    ("predicted", "target", "dice", "iou"),
    [
        pytest.param([1, 1, 0, 0], [1, 1, 0, 0], 0, 1, id="equal"),
        pytest.param([1, 1, 0, 0], [0, 0, 1, 1], 1 - 1 / 5, 0, id="disjoint"),
        pytest.param([1, 1, 1, 0], [1, 1, 0, 0], 1 - 5 / 6, 2 / 3, id="one pixel too many"),
        pytest.param([0, 0, 0, 0], [0, 0, 0, 0], 0, 1, id="both empty"),
        pytest.param([0, 0, 0, 0], [1, 1, 0, 0], 1 - 1 / 3, 0, id="empty prediction"),
        pytest.param([1, 0, 0, 0], [0.5, 0, 0, 0], 1 - 2 / 2.5, 1, id="half a pixel counts as one in the IoU"),
    ],
)
def test_mask_losses_by_hand(predicted, target, dice, iou):
    logits = (torch.tensor(predicted, dtype=torch.float32) * 2 - 1).reshape(1, 1, 2, 2) * 100
    _, got_dice, got_iou = mask_losses(logits, torch.tensor(target, dtype=torch.float32).reshape(1, 2, 2))
    assert got_dice.item() == near(dice, length=4, magnitude=1.0)
    assert got_iou.item() == near(iou, length=4, magnitude=1.0)


def test_the_focal_loss_of_an_undecided_pixel_by_hand():
    focal, _, _ = mask_losses(torch.zeros(1, 1, 2, 2), torch.tensor([[[1.0, 0], [0, 1]]]))
    assert focal.item() == near(0.25 * np.log(2), length=4)


@pytest.mark.parametrize(("step", "lr"), [(0, 5e-4), (1, 1e-3), (2, 1e-3), (3, 5e-4), (4, 0)])
def test_the_learning_rate_warms_up_and_follows_half_a_cosine(step, lr):
    assert learning_rate(TINY, step) == pytest.approx(lr)


def test_a_batch_is_a_function_of_seed_and_step(corpus):
    first, again = (train_small.sample_batch(corpus, TINY, 1) for _ in range(2))
    other = train_small.sample_batch(corpus, TINY, 2)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.points_xy, again.points_xy)
    assert not torch.equal(first.images, other.images)


def test_prompts_of_a_batch_lie_on_their_targets(corpus):
    for step in range(20):
        batch = train_small.sample_batch(corpus, TINY, step)
        assert batch.images.shape == (2, 3, 128, 128)
        assert batch.point_targets.shape == (2, TINY.points, 64, 64)
        for points, target in zip(batch.points_xy.flatten(0, 1), batch.point_targets.flatten(0, 1), strict=True):
            for x, y in points.int().tolist():
                assert target[y // 2, x // 2] > 0
        assert torch.all((batch.boxes_xyxy >= 0) & (batch.boxes_xyxy <= 128))


def test_background_prompts_train_the_predicted_iou_alone(corpus):
    torch.manual_seed(0)
    sam = small.build_small_sam().train()
    batch = train_small.sample_batch(corpus, TINY, 0)
    moved = train_small.Batch(**{**vars(batch), "background_xy": batch.background_xy.flip(-1)})
    (_, parts), (_, other) = training_loss(sam, batch, TINY), training_loss(sam, moved, TINY)
    assert parts["best"] == other["best"]
    assert parts["iou_loss"] != other["iou_loss"]


@pytest.mark.slow
def test_resumed_training_gives_the_weights_of_training_in_one_go(tmp_path, monkeypatch):
    monkeypatch.setattr(train_small, "SAVE_EVERY", 2)
    monkeypatch.setattr(train_small, "VAL_IMAGES", 1)
    whole = train_small.train(TINY, tmp_path / "whole.safetensors")
    monkeypatch.setattr(train_small, "training_loss", _stops_at(3))
    with pytest.raises(KeyboardInterrupt):
        train_small.train(TINY, tmp_path / "cut.safetensors")
    monkeypatch.undo()
    monkeypatch.setattr(train_small, "VAL_IMAGES", 1)
    resumed = train_small.train(TINY, tmp_path / "cut.safetensors", resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def _stops_at(call: int):
    calls = iter(range(1, call + 1))

    def loss(*arguments):
        if next(calls) == call:
            raise KeyboardInterrupt
        return training_loss(*arguments)

    return loss


@pytest.mark.slow
def test_the_command_trains_and_measures(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(train_small, "VAL_IMAGES", 1)
    monkeypatch.setattr(train_small, "TEST_IMAGES", 2)
    threads = torch.get_num_threads()
    out = tmp_path / "made" / "small.safetensors"
    with caplog.at_level(logging.INFO):
        train_small.main(["--steps", "2", "--images", "4", "--threads", str(threads), "--out", str(out)])
        train_small.main(["--evaluate", "--threads", str(threads), "--out", str(out)])
    assert load_weights(out)
    assert sum("centre_best" in message for message in caplog.messages) >= 2

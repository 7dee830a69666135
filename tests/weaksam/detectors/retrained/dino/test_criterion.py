import json
import math
from dataclasses import replace

import pytest
import torch

from tests.support.tolerances import assert_near, near
from weaksam.config import DinoConfig, QueryDropConfig
from weaksam.detectors.retrained.dino.boxes import BACKGROUND, Objects
from weaksam.detectors.retrained.dino.criterion import Outputs, Predictions, assign, detection_losses, query_losses
from weaksam.detectors.retrained.dino.denoising import denoising_queries
from weaksam.losses import history
from weaksam.losses.history import LossHistory
from weaksam.pseudo_labels.thresholds import percentile_of_knee

OFF = QueryDropConfig()
ON = QueryDropConfig(enabled=True)
CLASSES = 3
NAMES = [f"{part}{kind}" for part in ("", "encoder_", "denoising_") for kind in ("class", "box", "giou")]
COUNTS = ["foreground", "background", "dropped_foreground", "dropped_background"]


def objects_of(*counts):
    generator = torch.Generator().manual_seed(0)
    return [
        Objects(torch.randint(CLASSES, (n,), generator=generator), torch.rand(n, 4, generator=generator) * 0.3 + 0.2)
        for n in counts
    ]


def batch_of(*counts, queries=30, layers=2, pairs=4):
    """Random predictions of images with as many objects, and their denoising queries."""
    torch.manual_seed(1)
    objects = objects_of(*counts)
    denoising = denoising_queries(objects, CLASSES, DinoConfig(denoising_queries=pairs))

    def predictions(number):
        logits = torch.randn(len(counts), number, CLASSES, requires_grad=True)
        return Predictions(logits, torch.rand(len(counts), number, 4) * 0.3 + 0.2)

    every = [predictions(denoising.class_index.shape[1] + queries) for _ in range(layers)]
    present = torch.ones(len(counts), queries, dtype=torch.bool)
    return Outputs(predictions(queries), every, present), denoising, objects


def test_losses_of_a_query_by_hand():
    predictions = Predictions(
        torch.tensor([[[0.0, 2.0], [0.0, 0.0]]]), torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.5] * 4]])
    )
    wanted = Objects(torch.tensor([[0, BACKGROUND]]), torch.tensor([[[0.6, 0.5, 0.2, 0.2], [0.0] * 4]]))
    found = query_losses(predictions, wanted, torch.ones(1, 2, dtype=torch.bool))
    p = 1 / (1 + math.exp(-2))
    zero_there, zero_not = 0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2)
    two_not = 0.75 * p**2 * -math.log(1 - p)
    expected = [[zero_there + two_not, 5 * 0.1, 2 * (1 - 1 / 3)], [2 * zero_not, 0, 0]]
    assert_near(found.losses, torch.tensor(expected), length=8)
    assert_near(found.ranking, torch.tensor([math.log(2) - math.log(1 - p), 2 * math.log(2)]))
    assert found.foreground.tolist() == [True, False]


def test_losses_are_sums_over_queries_and_layers_divided_by_the_matched_queries():
    outputs, denoising, objects = batch_of(2, 0, 3)
    losses, counts = detection_losses(outputs, denoising, objects, OFF, 0)
    assert list(losses) == NAMES
    D = denoising.class_index.shape[1]
    sums = [torch.zeros(3) for _ in range(3)]
    for layer in outputs.layers:
        own = layer.queries(D, D + 30)
        sums[0] += query_losses(own, assign(own, outputs.present, objects), outputs.present).losses.sum(dim=0) / 5
        sums[2] += query_losses(layer.queries(0, D), denoising.wanted, denoising.present).losses.sum(dim=0) / 5
    sums[1] += (
        query_losses(outputs.encoder, assign(outputs.encoder, outputs.present, objects), outputs.present).losses.sum(0)
        / 5
    )
    # One group of 5 positives; 30 queries of three images, of two layers and three classes.
    assert_near(torch.stack(list(losses.values())), torch.cat(sums), length=30 * 3 * 2 * CLASSES)
    assert list(counts) == COUNTS
    assert [value.item() for value in counts.values()] == near([5 / 3, 85 / 3, 0, 0])


def test_absent_queries_and_neighbours_teach_nothing():
    outputs, denoising, objects = batch_of(2, 3)
    outputs.present[0, 10:] = False
    losses, counts = detection_losses(outputs, denoising, objects, OFF, 0)
    outputs.encoder.class_logits.data[0, 10:] = 50
    D = denoising.class_index.shape[1]
    for layer in outputs.layers:
        layer.class_logits.data[0, D + 10 :] = 50
        layer.class_logits.data[0, :D][~denoising.present[0]] = 50
    again, _ = detection_losses(outputs, denoising, objects, OFF, 0)
    assert again == losses
    assert counts["background"] == (10 + 30 - 5) / 2


@pytest.mark.parametrize(("foreground", "dropped"), [(0, 0), (1, 0), (9, 0), (10, 1), (25, 2)])
def test_a_tenth_of_the_matched_queries_is_dropped_rounded_down(foreground, dropped):
    outputs, denoising, objects = batch_of(foreground // 2, foreground - foreground // 2)
    _, counts = detection_losses(outputs, denoising, objects, ON, 0)
    assert [value.item() * 2 for value in counts.values()] == [foreground, 60 - foreground, dropped, 0]


def test_dropped_queries_teach_nothing_and_the_divisor_stays():
    outputs, denoising, objects = batch_of(12, 13)
    plain, _ = detection_losses(outputs, denoising, objects, OFF, 0)
    found, _ = detection_losses(outputs, denoising, objects, ON, 0)
    expected = torch.zeros(3)
    D = denoising.class_index.shape[1]
    grads = torch.autograd.grad(found["class"], [layer.class_logits for layer in outputs.layers])
    for layer, grad in zip(outputs.layers, grads, strict=True):
        own = layer.queries(D, D + 30)
        rows = query_losses(own, assign(own, outputs.present, objects), outputs.present)
        hardest = rows.ranking.masked_fill(~rows.foreground, -1).topk(2).indices
        kept = torch.ones(60, dtype=torch.bool)
        kept[hardest] = False
        expected += rows.losses[kept].sum(dim=0) / 25
        assert (grad[:, D:].flatten(0, 1).abs().sum(dim=1) > 0).tolist() == kept.tolist()
    assert_near(torch.stack([found[kind] for kind in ("class", "box", "giou")]), expected, length=60 * 2 * CLASSES)
    for name in NAMES[:6]:
        assert found[name] < plain[name]
    for name in NAMES[6:]:  # denoising queries
        assert torch.equal(found[name], plain[name])


@pytest.mark.parametrize(
    "drop",
    [replace(OFF, percentile=0.0), replace(ON, percentile=100.0), replace(ON, start_step=8), replace(ON, layers=(5,))],
    ids=["off", "percentile 100", "not yet", "another layer"],
)
def test_what_drops_nothing_is_the_plain_loss_bit_for_bit(drop):
    outputs, denoising, objects = batch_of(12, 13)
    plain, _ = detection_losses(outputs, denoising, objects, OFF, 7)
    found, counts = detection_losses(outputs, denoising, objects, drop, 7)
    assert found == plain
    assert counts["dropped_foreground"] == counts["dropped_background"] == 0
    every = [outputs.encoder.class_logits, *(layer.class_logits for layer in outputs.layers)]
    for one, other in zip(*(torch.autograd.grad(sum(of.values()), every) for of in (plain, found)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("layers", "encoder", "decoder"), [((0,), True, False), ((2,), False, True), ((1,), False, True)]
)
def test_only_the_layers_asked_for_drop(layers, encoder, decoder):
    outputs, denoising, objects = batch_of(12, 13)
    plain, _ = detection_losses(outputs, denoising, objects, OFF, 0)
    found, counts = detection_losses(outputs, denoising, objects, replace(ON, layers=layers), 0)
    assert (found["encoder_class"] < plain["encoder_class"]) == encoder
    assert (found["class"] < plain["class"]) == decoder
    assert counts["dropped_foreground"] * 2 == (2 if layers == (2,) else 0)  # those of the last layer


def test_every_query_can_be_dropped_if_asked_for():
    outputs, denoising, objects = batch_of(12, 13)
    _, counts = detection_losses(outputs, denoising, objects, replace(ON, scope="all"), 0)
    assert (counts["dropped_foreground"] + counts["dropped_background"]) * 2 == 6  # a tenth of 60
    assert counts["foreground"] * 2 == 25


def test_without_objects_queries_learn_that_nothing_is_there():
    outputs, denoising, objects = batch_of(0, 0)
    losses, counts = detection_losses(outputs, denoising, objects, ON, 0)
    assert list(losses) == NAMES
    assert losses["class"] > 0
    assert losses["encoder_class"] > 0
    assert all(losses[name] == 0 for name in NAMES if name not in ("class", "encoder_class"))
    assert list(counts) == COUNTS
    sum(losses.values()).backward()
    assert outputs.layers[0].class_logits.grad.isfinite().all()


def test_more_objects_than_queries_are_matched_as_far_as_they_go():
    outputs, denoising, objects = batch_of(5, 1, queries=3)
    losses, counts = detection_losses(outputs, denoising, objects, OFF, 0)
    assert counts["foreground"] * 2 == 4
    assert counts["background"] * 2 == 2
    assert all(value.isfinite() for value in losses.values())


def test_identical_boxes_have_finite_gradients():
    outputs, denoising, objects = batch_of(4)
    boxes = objects[0].boxes_cxcywh[:1].repeat(4, 1)
    exact = outputs.encoder.boxes_cxcywh.clone()
    exact[0, :4] = boxes
    exact.requires_grad_()
    twins = [Objects(objects[0].class_index[:1].repeat(4), boxes)]
    losses, _ = detection_losses(
        outputs._replace(encoder=Predictions(outputs.encoder.class_logits, exact)), denoising, twins, OFF, 0
    )
    (losses["encoder_box"] + losses["encoder_giou"]).backward()
    assert exact.grad.isfinite().all()


def _loss_of_one_of_two(rank, folder):
    """One process of two: its images have 4 and 0 objects, the other's 1 and 1."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    outputs, denoising, objects = batch_of(*((4, 0), (1, 1))[rank])
    losses, _ = detection_losses(outputs, denoising, objects, OFF, 0)
    (folder / f"{rank}.json").write_text(json.dumps({name: value.item() for name, value in losses.items()}))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_the_divisor_is_averaged_over_processes(tmp_path):
    # Not forked: a child of a process that has computed with PyTorch inherits its locks and may wait for ever.
    torch.multiprocessing.start_processes(_loss_of_one_of_two, (tmp_path,), nprocs=2, start_method="spawn")
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for rank, counts in enumerate(((4, 0), (1, 1))):
        outputs, denoising, objects = batch_of(*counts)
        alone, _ = detection_losses(outputs, denoising, objects, OFF, 0)
        positives = int((denoising.wanted.class_index != BACKGROUND).sum())
        mean_positives = (4 + 8) / 2  # one group of 4; four groups of 1 and 1
        for name, value in alone.items():
            of_process = (positives / mean_positives) if name.startswith("denoising") else sum(counts) / 3
            assert found[rank][name] == near(value.item() * of_process, length=60 * 2 * CLASSES)


def test_an_open_percentile_is_that_of_the_knee_of_the_losses_so_far(monkeypatch):
    monkeypatch.setattr(history, "FEWEST", 5)
    drop = QueryDropConfig(enabled=True, percentile="auto", start_step=1)
    remembered = LossHistory(drop, {"percentile": (percentile_of_knee, 100.0)})
    outputs, denoising, objects = batch_of(12, 13)
    plain, _ = detection_losses(outputs, denoising, objects, QueryDropConfig(), 0)
    before, counts = detection_losses(outputs, denoising, objects, drop, 0, remembered)
    assert all(torch.equal(before[name], plain[name]) for name in plain)
    assert not remembered.is_settled
    assert counts["dropped_foreground"] == 0
    after, counts = detection_losses(outputs, denoising, objects, drop, 1, remembered)
    chosen = percentile_of_knee(remembered.losses[: int(remembered.seen), 0].numpy())
    assert float(remembered.thresholds) == near(chosen, length=4)
    fixed = replace(drop, percentile=float(remembered.thresholds))
    expected, same = detection_losses(outputs, denoising, objects, fixed, 1)
    assert all(torch.equal(after[name], expected[name]) for name in expected)
    assert counts["dropped_foreground"] == same["dropped_foreground"] > 0

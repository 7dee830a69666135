import itertools
import json
import math
import re
import struct
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

from pipelines.training import worker
from pipelines.training.checkpoints import Checkpoints, read_scalars, write_events
from pipelines.training.loop import run_training
from pipelines.training.task import Losses, NonFiniteLossError, Progress, Skipped, TrainingPlan, steps_of
from pipelines.training.worker import Worker
from tests.support import toy_training
from tests.support.patience import PATIENCE_S, wait_until
from tests.support.tolerances import assert_near, near, roundings_in
from tests.support.toy_training import AdversaryTask, ToyTask, train
from tests.support.two_workers import train_two
from weaksam.errors import ConfigError, DataError, RunError
from weaksam.random import derive_seed

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # Ray's own, when ray.train is imported


def plan(images=10, epochs=3, batch_size=4, seed=0):
    return TrainingPlan(images=images, steps=steps_of(images, epochs, batch_size), batch_size=batch_size, seed=seed)


def equal_bits(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def assert_learnt_alike(a, b, task):
    """Weights of as many steps over the same images, whose gradients were summed in another order."""
    for name, weight in a.items():
        assert_near(weight.float(), b[name].float(), length=roundings_of(task), magnitude=1.0)


def roundings_of(task):
    """In all steps of a training, through the network and over the images of a batch."""
    return task.plan.steps * (task.plan.batch_size + 2 * roundings_in(task.build_model()[0]))


class Died(BaseException):
    """Stands for the end of a process: nothing below catches it."""


def die_at(step):
    def progress(row):
        if row.step >= step:
            raise Died

    return progress


# ---------------------------------------------------------------------------------------------------- the order of work


@pytest.mark.parametrize(
    ("images", "epochs", "batch_size", "steps"),
    [
        pytest.param(10, 3, 5, 6, id="batches fill the epochs"),
        pytest.param(10, 3, 4, 8, id="the last batch is filled from one epoch more"),
        pytest.param(3, 2, 8, 1, id="fewer images than a batch"),
        pytest.param(1, 1, 1, 1, id="one image"),
    ],
)
def test_the_steps_of_epochs_are_counted(images, epochs, batch_size, steps):
    assert steps_of(images, epochs, batch_size) == steps


def test_a_position_knows_its_epoch():
    p = TrainingPlan(images=10, steps=7, batch_size=4, seed=0)  # 2.8 epochs
    assert [p.position(step) for step in (0, 5)] == [(0, 7, 0.0), (5, 7, 2.0)]


@pytest.mark.parametrize("field", ["images", "steps", "batch_size"])
def test_an_empty_plan_is_refused(field):
    with pytest.raises(ConfigError, match=f"{field} of 1 or more, got 0"):
        replace(plan(), **{field: 0})


def test_every_epoch_shows_every_image_once_in_an_order_of_its_own():
    p = plan(images=10, epochs=4, batch_size=4)
    stream = [pair for step in range(p.steps) for pair in p.batch(step)]
    orders = [[index for e, index in stream if e == epoch] for epoch in range(4)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert plan(seed=0).batch(0) != plan(seed=1).batch(0)


def test_a_relative_folder_is_refused():
    with pytest.raises(ConfigError, match="absolute"):
        train("runs/here")


# ------------------------------------------------------------------------------------------------- training and resuming


def test_a_training_proves_its_steps_and_lowers_the_loss(tmp_path):
    rows = []
    result = train(tmp_path, ToyTask(epochs=60), progress=rows.append)
    assert result.text == "steps planned 120 = done 120 · checkpoint read back"
    assert result.resumed_at == 0
    assert [row.step for row in rows] == list(range(1, 121))
    assert rows == result.scalars == read_scalars(str(tmp_path / "run"))
    first, last = (sum(row.loss for row in part) for part in (rows[:20], rows[-20:]))
    assert last < 0.7 * first
    assert rows[-1].epoch == 60
    assert rows[-1].eta_s == 0
    assert rows[-1].lr == pytest.approx(1e-2 * (1 - 119 / 240))
    assert all(row.losses == {"fit": row.loss} for row in rows)
    assert all(row.images_per_s > 0 for row in rows)
    lines = (tmp_path / "run" / "_scalars.jsonl").read_text().splitlines()
    assert json.loads(lines[3])["step"] == 4


def test_the_same_seed_gives_the_same_bits(tmp_path):
    assert equal_bits(train(tmp_path, name="a").model, train(tmp_path, name="b").model)


@pytest.mark.parametrize("dies_after", [1, 3, 5])
@pytest.mark.parametrize("images_per_pass", [0, 3])
@pytest.mark.parametrize("task", [ToyTask(max_grad_norm=0.5), AdversaryTask(max_grad_norm=0.5)], ids=["one", "two"])
def test_a_resumed_training_gives_the_same_bits_as_an_uninterrupted_one(tmp_path, dies_after, images_per_pass, task):
    settings = {"checkpoint_every": 1, "images_per_pass": images_per_pass}
    straight = train(tmp_path, task, name="straight", **settings)
    with pytest.raises(Died):
        train(tmp_path, task, name="broken", progress=die_at(dies_after), **settings)
    torch.rand(17)  # another process has another generator state
    resumed = train(tmp_path, task, name="broken", **settings)
    assert resumed.resumed_at == dies_after
    assert equal_bits(straight.model, resumed.model)
    assert [(row.step, row.losses, row.lr) for row in resumed.scalars] == [
        (row.step, row.losses, row.lr) for row in straight.scalars
    ]


def test_a_training_that_dies_right_after_a_checkpoint_keeps_the_row_of_its_step(tmp_path, monkeypatch):
    class DyingAfterThree(Checkpoints):
        def save(self, state):
            super().save(state)
            if state["step"] == 3:
                raise Died

    with monkeypatch.context() as patched:
        patched.setattr("pipelines.training.worker.Checkpoints", DyingAfterThree)
        with pytest.raises(Died):
            train(tmp_path, name="broken", checkpoint_every=1)
    resumed = train(tmp_path, name="broken", checkpoint_every=1)
    assert resumed.resumed_at == 3
    assert [row.step for row in resumed.scalars] == [1, 2, 3, 4, 5, 6]


def test_work_after_the_last_checkpoint_is_done_again(tmp_path):
    straight = train(tmp_path, name="straight")
    with pytest.raises(Died):
        train(tmp_path, name="broken", progress=die_at(5), checkpoint_every=2)
    resumed = train(tmp_path, name="broken", checkpoint_every=2)
    assert resumed.resumed_at == 4
    assert equal_bits(straight.model, resumed.model)
    assert [row.step for row in resumed.scalars] == [1, 2, 3, 4, 5, 6]


def test_a_finished_training_returns_at_once(tmp_path):
    first = train(tmp_path)
    again = train(tmp_path, ToyTask(kill_at_epoch=0, marker=str(tmp_path / "never")))  # a step would kill this process
    assert again.resumed_at == again.steps_planned == 6
    assert equal_bits(first.model, again.model)


def test_a_finished_training_asks_for_no_room(tmp_path):
    train(tmp_path)
    again = run_training(ToyTask(), storage_uri=str(tmp_path), run_name="run", resources=pytest.fail)
    assert again.resumed_at == 6


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
    with pytest.raises(Died):
        train(tmp_path, progress=die_at(4), checkpoint_every=1)
    newest = tmp_path / "run" / "step-00000004.pt"
    newest.write_bytes(newest.read_bytes()[:200])
    assert train(tmp_path, checkpoint_every=1).resumed_at == 3


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x20
    path.write_bytes(content)


def make_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: torch.save([1], path),
        lambda path: torch.save({"step": 4}, path),
        flip,
        make_folder,
    ],
    ids=["empty", "a list", "without its parts", "a flipped bit", "a folder"],
)
def test_damaged_checkpoints_are_set_aside_and_training_starts_afresh_without_any(tmp_path, damage, caplog):
    straight = train(tmp_path / "straight", checkpoint_every=1)
    with pytest.raises(Died):
        train(tmp_path, progress=die_at(4), checkpoint_every=1)
    folder = tmp_path / "run"
    damage(folder / "step-00000004.pt")
    damage(folder / "step-00000003.pt")
    again = train(tmp_path, checkpoint_every=1)
    assert again.resumed_at == 0
    assert equal_bits(again.model, straight.model)
    assert f"set aside 2 damaged files in {folder}/_damaged: step-00000004.pt (" in caplog.text
    aside = sorted(path.name.partition("-")[2] for path in (folder / "_damaged").iterdir())
    assert aside == ["step-00000003.pt", "step-00000004.pt"]


@pytest.mark.parametrize("line", [b"", b"\xff\xfe", b"[1]", b'{"step": 1}', b'{"step": 2, "ste'])
def test_damaged_lines_of_the_curves_are_left_out_and_said(tmp_path, line, caplog):
    train(tmp_path)
    scalars = tmp_path / "run" / "_scalars.jsonl"
    whole = scalars.read_bytes().splitlines()
    scalars.write_bytes(b"\n".join([whole[0], line, *whole[2:]]))
    assert [row.step for row in read_scalars(str(tmp_path / "run"))] == [1, 3, 4, 5, 6]
    assert "left 1 damaged line(s) of 6 out" in caplog.text


def test_two_checkpoints_are_kept_and_hold_no_objects(tmp_path):
    train(tmp_path, checkpoint_every=1)
    files = sorted(p.name for p in (tmp_path / "run").iterdir())
    events = [f"events.out.tfevents.{step:08d}" for step in range(1, 7)]
    assert files == ["_scalars.jsonl", *events, "step-00000005.pt", "step-00000006.pt"]
    state = torch.load(tmp_path / "run" / "step-00000006.pt", weights_only=True)
    assert state["step"] == 6
    assert state["plan"] == {
        "images": 10, "steps": 6, "batch_size": 5, "seed": 7, "precision": "fp32", "max_grad_norm": 0.0, "keep": (),
    }  # fmt: skip


def test_a_step_of_the_plan_leaves_a_checkpoint_that_stays(tmp_path):
    task = ToyTask(keep=(2,))
    result = train(tmp_path, task, checkpoint_every=4)
    files = sorted(path.name for path in (tmp_path / "run").glob("step-*.pt"))
    assert files == ["step-00000002.pt", "step-00000004.pt", "step-00000006.pt"]
    checkpoints = Checkpoints(str(tmp_path / "run"), task.plan)
    assert checkpoints.at(2)["step"] == 2
    assert not torch.equal(checkpoints.at(2)["model"]["0.weight"], result.model["0.weight"])
    with pytest.raises(RunError, match=r"step-00000003\.pt: expected a checkpoint of step 3 that reads back"):
        checkpoints.at(3)
    with pytest.raises(RunError, match="expected a checkpoint of the plan"):
        Checkpoints(str(tmp_path / "run"), ToyTask(keep=(2,), count=11).plan).at(2)


@pytest.mark.parametrize("epochs", [2, 4])
def test_a_checkpoint_of_another_plan_is_refused(tmp_path, epochs):
    train(tmp_path)
    with pytest.raises(
        RunError, match=f"expected a checkpoint of the plan .*'steps': {2 * epochs}.*got one of .*'steps': 6"
    ):
        train(tmp_path, ToyTask(epochs=epochs))


def test_how_far_a_training_is_stands_in_the_names_of_its_checkpoints(tmp_path):
    task = ToyTask(keep=(2,))
    checkpoints = Checkpoints(str(tmp_path / "run"), task.plan)
    assert checkpoints.steps_done() == checkpoints.recover() == 0
    train(tmp_path, task, checkpoint_every=4)
    assert checkpoints.steps_done() == checkpoints.recover() == 6
    (tmp_path / "run" / "step-00000006.pt").write_bytes(b"")
    assert checkpoints.steps_done() == 6
    assert checkpoints.recover() == checkpoints.steps_done() == 4


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system does not say what is mapped")
def test_a_checkpoint_that_is_read_stays_in_its_file(tmp_path):
    train(tmp_path)
    state = Checkpoints(str(tmp_path / "run"), ToyTask().plan).newest()
    assert state is not None
    assert f"{tmp_path}/run/step-00000006.pt" in Path("/proc/self/maps").read_text()


def test_there_is_no_checkpoint_in_an_empty_or_missing_folder(tmp_path):
    assert Checkpoints(str(tmp_path), plan()).newest() is None
    assert Checkpoints(str(tmp_path / "missing"), plan()).newest() is None
    assert read_scalars(str(tmp_path / "missing")) == []


@pytest.mark.parametrize("images_per_pass", [1, 2, 3])
@pytest.mark.parametrize("kind", [ToyTask, AdversaryTask])
def test_accumulated_passes_equal_one_big_batch(tmp_path, images_per_pass, kind):
    task = kind(batch_norm=False, dropout=0.0)
    big = train(tmp_path, task, name="big")
    small = train(tmp_path, task, name="small", images_per_pass=images_per_pass)
    assert_learnt_alike(big.model, small.model, task)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")  # PyTorch's, on one core
def test_loader_processes_change_nothing(tmp_path):
    task = ToyTask(broken=(2,))
    alone = train(tmp_path, task, name="alone")
    loaded = train(tmp_path, task, name="loaded", loader_processes=2)
    assert equal_bits(alone.model, loaded.model)
    assert alone.skipped == loaded.skipped


def test_the_random_state_of_the_caller_is_left_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(tmp_path)
    assert torch.equal(torch.rand(2), expected)


def test_bf16_autocast_trains_float32_weights(tmp_path):
    result = train(tmp_path, ToyTask(precision="bf16"))
    assert {v.dtype for v in result.model.values()} == {torch.float32, torch.int64}
    assert all(math.isfinite(row.loss) for row in result.scalars)


def test_a_small_gradient_limit_slows_learning(tmp_path):
    # AdamW is indifferent to the gradient's scale but for its epsilon: a limit below that keeps the weights in place.
    free = train(tmp_path, ToyTask(), name="free")
    held = train(tmp_path, ToyTask(max_grad_norm=1e-12), name="held")
    start = toy_start()
    moved = [(r.model["0.weight"] - start["0.weight"]).abs().max().item() for r in (free, held)]
    assert moved[1] < 0.1 * moved[0]


def toy_start():
    torch.manual_seed(derive_seed(7, "weights"))
    return ToyTask().build_model().state_dict()


class Judged(ToyTask):
    """Likes the weights of early steps best."""

    def evaluate(self, model, _share):
        assert not model.training
        return -float(model[1].num_batches_tracked)


class JudgedByAll(ToyTask):
    """Two workers send what only they know; the score is that of the first one's batch norms."""

    def evaluate(self, model, share):
        seen = share.together([(n, float(model[1].running_mean.sum())) for n in share.of(range(5))])
        assert [n for n, _ in seen] == list(range(5))
        assert len({statistics for _, statistics in seen}) == 1
        return 1.0


@pytest.mark.slow
def test_two_workers_judge_together(tmp_path):
    train_two({"pair": JudgedByAll(count=8, batch_size=4, epochs=1)}, str(tmp_path))
    assert read_best(tmp_path / "pair")["score"] == 1.0


def read_best(folder):
    return torch.load(max(folder.glob("step-*.pt")), weights_only=True)["best"]


def test_the_best_weights_are_kept_by_score(tmp_path):
    result = train(tmp_path, Judged())
    assert result.best is not None
    assert (result.best["step"], result.best["score"]) == (1, -1.0)
    assert result.best["model"]["1.num_batches_tracked"] == 1
    assert result.model["1.num_batches_tracked"] == 6
    assert train(tmp_path, name="plain").best is None


# ------------------------------------------------------------------------------------------------------ memory of a GPU


def test_a_training_on_the_cpu_measures_no_memory_of_a_gpu(tmp_path):
    assert train(tmp_path).gpu_memory_mib is None


def test_memory_of_a_gpu_is_the_largest_of_all_workers_and_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(Worker, "_gather", lambda _self, value: [value])
    monkeypatch.setattr(worker, "peak_mib", lambda _device: 812.0)
    with pytest.raises(Died):
        train(tmp_path, progress=die_at(2), checkpoint_every=1)
    monkeypatch.setattr(worker, "peak_mib", lambda _device: 500.0)
    assert train(tmp_path, checkpoint_every=1).gpu_memory_mib == 812.0
    assert train(tmp_path, checkpoint_every=1).gpu_memory_mib == 812.0  # of a finished training
    monkeypatch.setattr(Worker, "_gather", lambda _self, value: [value, 900.0 if value == 500.0 else value])
    assert train(tmp_path, name="two").gpu_memory_mib == 900.0


def test_a_training_goes_on_from_a_checkpoint_that_says_nothing_of_memory(tmp_path):
    with pytest.raises(Died):
        train(tmp_path, progress=die_at(2), checkpoint_every=1)
    path = max((tmp_path / "run").glob("step-*.pt"))
    state = torch.load(path, weights_only=True)
    del state["gpu_memory_mib"]
    torch.save(state, path)
    result = train(tmp_path, checkpoint_every=1)
    assert result.resumed_at == 2
    assert result.gpu_memory_mib is None


@pytest.mark.gpu
def test_a_training_on_a_gpu_measures_its_memory(tmp_path):
    weights_mib = sum(value.numel() * value.element_size() for value in ToyTask().build_model().parameters()) / 2**20
    measured = train(tmp_path, use_gpu=True).gpu_memory_mib
    assert weights_mib < measured < 1024


# --------------------------------------------------------------------------------------------------------- bad images


def test_unreadable_images_are_replaced_and_named(tmp_path):
    result = train(tmp_path, ToyTask(broken=(2, 3)))
    assert result.skipped == [
        Skipped("image-2", "truncated", "at byte 2"),
        Skipped("image-3", "truncated", "at byte 3"),
    ]
    assert result.steps_done == 6


def test_skipped_images_survive_a_restart(tmp_path):
    task = ToyTask(broken=(2,), epochs=1)
    with pytest.raises(Died):
        train(tmp_path, task, progress=die_at(1), checkpoint_every=1)
    assert train(tmp_path, task, checkpoint_every=1).skipped == [Skipped("image-2", "truncated", "at byte 2")]


def test_a_data_set_of_unreadable_images_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"20 training images in a row cannot be used.*truncated"):
        train(tmp_path, ToyTask(broken=tuple(range(10))))


def test_a_loss_that_is_not_finite_names_the_images_of_its_pass(tmp_path):
    task = ToyTask(poison=3)
    step = next(s for s in range(6) if 3 in [index for _, index in task.plan.batch(s)])
    ids = [f"image-{index}" for _, index in task.plan.batch(step)]
    with pytest.raises(NonFiniteLossError, match=rf"got fit = nan with images {', '.join(ids)};"):
        train(tmp_path, task)


class Exploding(AdversaryTask):
    """The second part of the first phase, or the second phase alone, is infinite."""

    def losses(self, model, batch, at, phase):
        losses = super().losses(model, batch, at, phase).losses
        return Losses({**losses, self.marker: losses[self.marker] + math.inf} if self.marker in losses else losses)


@pytest.mark.parametrize("part", ["size", "adversary"])
def test_only_the_part_that_is_not_finite_is_named_and_eight_images(tmp_path, part):
    with pytest.raises(NonFiniteLossError) as caught:
        train(tmp_path, Exploding(batch_size=10, marker=part))
    ids = [f"image-{index}" for _, index in ToyTask(batch_size=10).plan.batch(0)]
    assert f"got {part} = inf with images {', '.join(ids[:8])} and 2 more; lower" in str(caught.value)


class Stuck(ToyTask):
    def losses(self, model, batch, at, phase):
        if at.step == 1:
            raise FloatingPointError("expected finite costs, got NaN")
        return super().losses(model, batch, at, phase)


def test_a_network_that_cannot_go_on_names_the_images_of_its_pass(tmp_path):
    ids = [f"image-{index}" for _, index in ToyTask().plan.batch(1)]
    with pytest.raises(NonFiniteLossError, match=f"expected finite costs, got NaN; with images {', '.join(ids)}$"):
        train(tmp_path, Stuck())


# ------------------------------------------------------------------------------------------------------------------ phases


def test_in_a_phase_only_its_own_parameters_learn(tmp_path):
    seen = []

    class Watched(AdversaryTask):
        def losses(self, model, batch, at, phase):
            named = dict(model.named_parameters())
            learning = {name for name, parameter in named.items() if parameter.requires_grad}
            gradients = {name for name, parameter in named.items() if parameter.grad is not None}
            weights = {name: parameter.detach().clone() for name, parameter in named.items()}
            seen.append((phase, learning, gradients, weights, batch["x"]))
            return super().losses(model, batch, at, phase)

    detector = {"0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias"}
    train(tmp_path, Watched(epochs=1), images_per_pass=3)  # two steps of two phases of two passes
    assert [phase for phase, *_ in seen] == [0, 0, 1, 1, 0, 0, 1, 1]
    for turn, (phase, learning, gradients, _, _) in enumerate(seen):
        assert learning == ({"hidden"} if phase else {*detector, "never_used"})
        assert gradients == (set() if turn % 2 == 0 else learning - {"never_used"})  # of the pass before alone
    weights = [moment for _, _, _, moment, _ in seen]
    moved = [{name for name in a if not torch.equal(a[name], b[name])} for a, b in itertools.pairwise(weights)]
    assert moved == [set(), detector, set(), {"hidden"}, set(), detector, set()]
    inputs = [x for *_, x in seen]
    assert [len(x) for x in inputs] == [2, 3] * 4
    assert inputs[0] is inputs[2]  # loaded and moved once
    assert inputs[1] is inputs[3]
    assert inputs[4] is not inputs[0]


def test_a_parameter_of_no_optimiser_stays_as_it_is(tmp_path):
    assert train(tmp_path, AdversaryTask()).model["frozen"] == 0.5


def test_the_adversary_raises_what_the_first_phase_lowers(tmp_path):
    with_one = train(tmp_path, AdversaryTask(epochs=30, dropout=0.0, batch_norm=False), name="with")
    without = train(tmp_path, Peaceful(epochs=30, dropout=0.0, batch_norm=False), name="without")
    assert torch.equal(without.model["hidden"], torch.zeros(4))
    assert with_one.model["hidden"].max() > 0
    assert with_one.scalars[-1].losses["fit"] > without.scalars[-1].losses["fit"]


class Peaceful(AdversaryTask):
    def lr_factors(self, at):
        return [super().lr_factors(at)[0], 0.0]


def test_a_row_holds_the_parts_of_the_first_phase(tmp_path):
    rows = train(tmp_path, AdversaryTask()).scalars
    assert all(list(row.losses) == ["fit", "size"] for row in rows)
    assert all(row.loss == row.losses["fit"] + row.losses["size"] for row in rows)
    # The first row is measured before anything has moved: half of the mean of the first layer's squared weights.
    torch.manual_seed(derive_seed(7, "weights"))
    assert rows[0].losses["size"] == near(
        0.5 * AdversaryTask().build_model()[0].weight.square().mean().item(), length=16
    )


def test_what_is_counted_stands_beside_the_losses_and_is_not_learnt_from(tmp_path):
    rows = train(tmp_path, ToyTask(), images_per_pass=3).scalars  # passes of 2 and 3 images
    assert [row.counts["step"] for row in rows] == [near(n) for n in range(len(rows))]
    assert [row.loss for row in rows] == [row.losses["fit"] for row in rows]
    task = ToyTask()
    images = task.build_dataset()
    positive = [(images.load(index, epoch)[1] > 0).item() for epoch, index in task.plan.batch(0)]
    assert rows[0].counts["positives"] == near(sum(positive) / 5)


class Faint(AdversaryTask):
    """Losses so small that the scaler's first scale does not overflow."""

    def losses(self, model, batch, at, phase):
        return Losses({name: 1e-4 * loss for name, loss in super().losses(model, batch, at, phase).losses.items()})


def test_two_phases_share_one_scaler_in_fp16(tmp_path):
    result = train(tmp_path, Faint(precision="fp16", epochs=10))
    state = torch.load(tmp_path / "run" / "step-00000020.pt", weights_only=True)
    assert state["scaler"]["_growth_tracker"] == 20  # one update per step, and no step was skipped
    assert all(math.isfinite(row.loss) for row in result.scalars)
    assert result.model["hidden"].abs().max() > 0


# ------------------------------------------------------------------------------------------------------------- TensorBoard


def drawn(folder):
    """What TensorBoard reads: the events of all files in name order, as (tag, step, value)."""
    events = []
    for path in sorted(Path(folder).glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):  # length, its checksum, the event, its checksum
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            events += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            at += 16 + length
        assert at == len(data)
    return events


def test_tensorboard_finds_every_row_once(tmp_path):
    task = AdversaryTask()
    with pytest.raises(Died):
        train(tmp_path, task, progress=die_at(5), checkpoint_every=2)
    assert {step for _, step, _ in drawn(tmp_path / "run")} == {1, 2, 3, 4}  # as many as the last checkpoint has done
    rows = train(tmp_path, task, checkpoint_every=2).scalars
    expected = [
        (tag, row.step, near(value))
        for row in rows
        for tag, value in {
            "loss": row.loss, "loss/fit": row.losses["fit"], "loss/size": row.losses["size"],
            "lr": row.lr, "images_per_s": row.images_per_s,
        }.items()
    ]  # fmt: skip
    found = [event for event in drawn(tmp_path / "run") if event[0] != "images_per_s"]
    assert found == [event for event in expected if event[0] != "images_per_s"]
    assert [step for tag, step, _ in drawn(tmp_path / "run") if tag == "images_per_s"] == [1, 2, 3, 4, 5, 6]


def test_files_that_tensorboard_may_have_open_are_never_touched_again(tmp_path):
    rows = [
        Progress(step=n, steps=9, epoch=0.0, loss=1.0, losses={"fit": 1.0}, lr=0.1, images_per_s=2.0, eta_s=0.0)
        for n in (3, 6, 9)
    ]
    folder = str(tmp_path / "run")
    write_events(folder, [])
    write_events(folder, rows[:2])
    before = {path: path.read_bytes() for path in Path(folder).iterdir()}
    write_events(folder, rows[:2])
    assert {path: path.read_bytes() for path in Path(folder).iterdir()} == before
    write_events(folder, rows)
    assert [path.name for path in sorted(Path(folder).iterdir())] == [
        "events.out.tfevents.00000006", "events.out.tfevents.00000009",
    ]  # fmt: skip
    assert all(path.read_bytes() == data for path, data in before.items())
    assert [(tag, step) for tag, step, _ in drawn(folder)][-4:] == [
        ("loss", 9), ("loss/fit", 9), ("lr", 9), ("images_per_s", 9),
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- killed for real


def start(folder, step_s=0.0):
    return subprocess.Popen(
        [sys.executable, "-m", toy_training.__name__, str(folder), str(step_s)],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_once_it_has_a_checkpoint(process, folder):
    def there():
        assert process.poll() is None, process.communicate()[0]
        return list(Path(folder).glob("run/step-*.pt"))

    wait_until(there)
    process.kill()
    process.communicate()


def finish(process):
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    found = re.search(r"resumed at (\d+) steps planned 6 = done 6", output)
    assert found, output
    return int(found[1])


def test_two_workers_see_the_images_of_one_and_agree_with_it_in_both_phases(tmp_path):
    log = tmp_path / "seen"
    log.mkdir()
    task = AdversaryTask(batch_norm=False, dropout=0.0, batch_size=4, count=8, epochs=2, max_grad_norm=0.5)
    alone = train(tmp_path, task, name="alone")
    train_two({"pair": replace(task, log=str(log))}, str(tmp_path), images_per_pass=1)
    state = Checkpoints(str(tmp_path / "pair"), task.plan).newest()
    assert state["step"] == 4
    assert_learnt_alike(alone.model, state["model"], task)
    rows = read_scalars(str(tmp_path / "pair"))
    assert [row.step for row in rows] == [1, 2, 3, 4]
    for one, two in zip(alone.scalars, rows, strict=True):
        assert two.losses == near(one.losses, length=roundings_of(task))
    assert alone.model["hidden"].abs().max() > 1e-3  # the second phase had its turns, too
    seen = [tuple(int(part) for part in path.name.split("-")) for path in log.iterdir()]
    assert sorted((epoch, index) for epoch, index, _ in seen) == [(e, i) for e in range(2) for i in range(8)]
    assert sorted(Counter(pid for _, _, pid in seen).values()) == [8, 8]


@pytest.mark.ray
def test_a_loss_that_is_not_finite_stops_a_worker_of_ray_without_a_retry(tmp_path, ray_cluster):
    log = tmp_path / "seen"
    log.mkdir()
    task = ToyTask(poison=3, epochs=1, batch_size=10, log=str(log))
    with pytest.raises(NonFiniteLossError, match="image-3"):
        train(tmp_path, task, workers=1)
    assert len(list(log.iterdir())) == 10  # each image was loaded once


def test_a_loss_that_is_not_finite_stops_both_workers(tmp_path):
    task = ToyTask(poison=3, epochs=1, batch_size=10, batch_norm=False)
    share = next(mine for mine in (task.plan.batch(0)[rank::2] for rank in (0, 1)) if 3 in [index for _, index in mine])
    ids = ", ".join(f"image-{index}" for _, index in share)
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match=f"NonFiniteLossError.* with images {ids};"):
        train_two({"run": task}, str(tmp_path))


@pytest.mark.slow
def test_a_killed_training_is_continued_to_the_same_bits(tmp_path):
    straight = train(tmp_path, name="straight")
    victim = start(tmp_path, step_s=0.3)
    kill_once_it_has_a_checkpoint(victim, tmp_path)
    resumed_at = finish(start(tmp_path))
    assert 1 <= resumed_at < 6
    state = Checkpoints(str(tmp_path / "run"), ToyTask().plan).newest()
    assert state["step"] == 6
    assert equal_bits(straight.model, state["model"])

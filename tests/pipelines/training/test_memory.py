"""A device with room for so many images: passes are chosen or halved so that they fit, or refused where that would change the
result."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pipelines.stages.train_classifier.task import ClassifierTask
from pipelines.training import memory, worker
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.memory import Gauge, gauge_of
from pipelines.training.task import PassTooLargeError
from tests.support.tolerances import assert_near, near, roundings_in
from tests.support.toy_training import AdversaryTask, ToyTask, train
from tests.support.two_workers import train_two
from weaksam.config import (
    ClassifierConfig,
    DinoConfig,
    DropBlockConfig,
    FasterRcnnConfig,
    MistConfig,
    OicrConfig,
    QueryDropConfig,
    ResNetCamConfig,
    RoiDropConfig,
    WeakTrConfig,
)
from weaksam.errors import ConfigError, RunError

TOO_MUCH = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@dataclass(frozen=True, kw_only=True)
class Small(AdversaryTask):
    room: int = 2  # images in a pass of the phase that fills the memory
    full_phase: int = 0
    error: Exception = TOO_MUCH
    full_from: int = 0  # step from which the memory is so small

    def losses(self, model, batch, at, phase):
        said = super().losses(model, batch, at, phase)  # has changed batch norms and drawn dropout by then
        if phase == self.full_phase and at.step >= self.full_from and len(batch["x"]) > self.room:
            raise self.error
        return said


class FullStep(torch.optim.SGD):
    def step(self, closure=None):  # noqa: ARG002
        raise TOO_MUCH


def plain(**options):
    return {"batch_norm": False, "dropout": 0.0, "batch_size": 8, "count": 16, **options}


def assert_learnt_alike(a, b, task):
    length = task.plan.steps * (task.plan.batch_size + 2 * roundings_in(task.build_model()[0]))
    for name, weight in a.items():
        assert_near(weight.float(), b[name].float(), length=length, magnitude=1.0)


# ------------------------------------------------------------------------------------------------- chosen by what is free


class Allocator:
    """A GPU's memory, in bytes: what is allocated now, and the most since the peak was reset."""

    def __init__(self, monkeypatch, free):
        self.allocated = self.peak = 100
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: self.allocated)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: self.peak)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self.reset)
        monkeypatch.setattr(memory, "free_bytes", lambda _device: free)

    def reset(self, _device):
        self.peak = self.allocated

    def take(self, size):
        self.allocated += size
        self.peak = max(self.peak, self.allocated)


def measured(gauge, allocator, *passes):
    """Let a phase have passes of (inputs, activations, gradients that stay)."""

    def loaded():
        for inputs, activations, gradients in passes:
            allocator.take(inputs)
            yield inputs, activations, gradients

    for inputs, activations, gradients in gauge.watched(loaded()):
        allocator.take(activations)
        allocator.take(gradients - activations - inputs)


@pytest.mark.parametrize(
    ("free", "gradients", "images"),
    [
        pytest.param(1000, 200, 6, id="(0.8 x 1000 - 200) / 90"),
        pytest.param(1000, 0, 8, id="800 / 90"),
        pytest.param(100, 0, 1, id="not even one, but there is nothing smaller"),
        pytest.param(100, 200, 1, id="not even the gradients"),
    ],
)
def test_images_of_a_pass_are_chosen_from_what_one_takes_beside_what_stays(monkeypatch, free, gradients, images):
    allocator = Allocator(monkeypatch, free)
    gauge = Gauge(torch.device("cuda"))
    measured(gauge, allocator, (10, 500, 200), (10, 70, 0), (20, 70, 0), (10, 30, 0))  # the first makes the gradients
    allocator.take(-200)
    measured(gauge, allocator, (10, 900, 50), (10, 60, 0))  # of another phase
    assert gauge.images_that_fit(gradients) == images


def test_nothing_is_measured_where_nobody_knows_what_is_free(monkeypatch):
    assert gauge_of(torch.device("cpu")) is None
    assert isinstance(gauge_of(torch.device("cuda")), Gauge)


class Fitting:
    """A gauge that finds room for so many images."""

    def __init__(self, images):
        self.images, self.watches, self.gradient_bytes = images, 0, None

    def watched(self, passes):
        self.watches += 1
        return passes

    def images_that_fit(self, gradient_bytes):
        self.gradient_bytes = gradient_bytes
        return self.images


def let_fit(monkeypatch, images):
    gauge = Fitting(images)
    monkeypatch.setattr(worker, "gauge_of", lambda _device: gauge)
    return gauge


def watching(kind, sizes):
    """A kind of task that notes how many images each pass of its first phase has."""

    class Watched(kind):
        def losses(self, model, batch, at, phase):
            if phase == 0:
                sizes.append((at.step, len(batch["x"])))
            return super().losses(model, batch, at, phase)

    return Watched


@pytest.mark.parametrize(
    ("fits", "chosen", "passes"),
    [
        pytest.param(1, 1, [1] * 8, id="one"),
        pytest.param(3, 3, [2, 3, 3], id="three, in passes of nearly one size"),
        pytest.param(8, 8, [8], id="the whole share"),
        pytest.param(50, 8, [8], id="no more than the share"),
    ],
)
def test_passes_are_chosen_in_the_first_step_and_the_losses_stay(tmp_path, monkeypatch, fits, chosen, passes):
    easy, sizes = train(tmp_path, AdversaryTask(**plain()), name="easy"), []
    gauge = let_fit(monkeypatch, fits)
    task = watching(AdversaryTask, sizes)(**plain())
    fitted = train(tmp_path, task, name="fitted")
    assert (easy.images_per_pass, fitted.images_per_pass) == (0, chosen)
    assert sizes == [(0, 1)] * 8 + [(step, size) for step in range(1, 6) for size in passes]
    assert gauge.watches == 2  # the phases of the first step
    # of the first phase: a Linear of 4 to 8 and one of 8 to 1, with biases, and 3 parameters more, of 4 bytes each
    assert gauge.gradient_bytes == 4 * (4 * 8 + 8 + 8 + 1 + 3)
    for one, other in zip(easy.scalars, fitted.scalars, strict=True):
        assert other.losses == pytest.approx(one.losses, rel=1e-6)
    assert_learnt_alike(easy.model, fitted.model, task)


@pytest.mark.parametrize("dies_after", [1, 3])
def test_a_training_goes_on_with_the_passes_that_were_chosen(tmp_path, monkeypatch, dies_after):
    class Died(BaseException):
        pass

    def die(row):
        if row.step == dies_after:
            raise Died

    task = AdversaryTask(**plain(dropout=0.2))
    let_fit(monkeypatch, 3)
    straight = train(tmp_path, task, name="straight", checkpoint_every=1)
    with pytest.raises(Died):
        train(tmp_path, task, name="broken", checkpoint_every=1, progress=die)
    let_fit(monkeypatch, 2)  # less is free now
    resumed = train(tmp_path, task, name="broken", checkpoint_every=1)
    assert (resumed.resumed_at, resumed.images_per_pass) == (dies_after, 3)
    assert all(torch.equal(straight.model[name], value) for name, value in resumed.model.items())


def test_a_number_that_is_asked_for_is_not_measured(tmp_path, monkeypatch):
    let_fit(monkeypatch, 1)
    assert train(tmp_path, AdversaryTask(**plain()), images_per_pass=4).images_per_pass == 4


def test_a_pass_whose_statistics_enter_the_loss_stays_a_whole_share(tmp_path, monkeypatch):
    let_fit(monkeypatch, 1)
    sizes = []
    task = watching(ToyTask, sizes)(statistics=("retrain.detector.name",))
    assert train(tmp_path, task).images_per_pass == 0
    assert {size for _, size in sizes} == {5}


def test_a_pass_that_was_chosen_and_does_not_fit_is_halved(tmp_path, monkeypatch):
    let_fit(monkeypatch, 8)
    assert train(tmp_path, Small(**plain(full_from=3))).images_per_pass == 2


@dataclass(frozen=True, kw_only=True)
class Uneven(ToyTask):
    """Two workers, of which the first has room for four images and the second for three; a file for each size of a pass."""

    sizes: str

    def build_model(self):
        room = (4, 3)[torch.distributed.get_rank()]
        worker.gauge_of = lambda _device: Fitting(room)  # of this worker's own process
        return super().build_model()

    def losses(self, model, batch, at, phase):
        Path(self.sizes, f"{torch.distributed.get_rank()} {min(at.step, 1)} {len(batch['x'])}").touch()
        return super().losses(model, batch, at, phase)


@pytest.mark.slow
def test_workers_agree_on_the_number_that_the_smallest_has_room_for(tmp_path):
    sizes = tmp_path / "sizes"
    sizes.mkdir()
    task = Uneven(**plain(), sizes=str(sizes))
    train_two({"pair": task}, str(tmp_path))
    assert Checkpoints(str(tmp_path / "pair"), task.plan).newest()["images_per_pass"] == 3
    assert sorted(path.name for path in sizes.iterdir()) == [
        "0 0 1",
        "0 1 2",
        "1 0 1",
        "1 1 2",
    ]  # 4 images in two passes


@pytest.mark.gpu
def test_a_gpu_has_room_for_a_share_of_a_small_network(tmp_path):
    assert train(tmp_path, ToyTask(**plain()), use_gpu=True).images_per_pass == 8


# ------------------------------------------------------------------------------------------------- halved, or refused


@pytest.mark.parametrize("full_phase", [0, 1])
@pytest.mark.parametrize("full_from", [0, 3])
def test_passes_are_halved_until_they_fit_and_the_losses_stay(tmp_path, full_phase, full_from):
    easy = train(tmp_path, AdversaryTask(**plain()), name="easy")
    task = Small(**plain(full_phase=full_phase, full_from=full_from))
    tight = train(tmp_path, task, name="tight")
    assert (easy.images_per_pass, tight.images_per_pass) == (0, 2)
    length = task.plan.steps * (task.plan.batch_size + 2 * roundings_in(task.build_model()[0]))
    for one, other in zip(easy.scalars, tight.scalars, strict=True):
        assert other.losses == near(one.losses, length=length)
        assert other.losses == pytest.approx(one.losses, rel=1e-6)
    assert_learnt_alike(easy.model, tight.model, task)


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: out of memory\nmore"), RuntimeError("CUDNN_STATUS_ALLOC_FAILED")]
)
def test_a_pass_is_halved_as_well_where_the_driver_or_a_library_has_no_room(tmp_path, error):
    assert train(tmp_path, Small(**plain(error=error))).images_per_pass == 2


def test_another_error_of_a_pass_is_raised_as_it_is(tmp_path):
    with pytest.raises(RuntimeError, match=r"^CUDA error: misaligned address$"):
        train(tmp_path, Small(**plain(error=RuntimeError("CUDA error: misaligned address"))))


def test_an_optimisers_step_that_finds_no_room_says_so(tmp_path):
    class Full(ToyTask):
        def build_optimizers(self, model):
            return [FullStep(model.parameters(), lr=0.1)]

    with pytest.raises(RunError, match=r"optimiser's step finds no room .*\(CUDA out of memory\).*smaller network"):
        train(tmp_path, Full())


def test_a_pass_that_failed_leaves_no_trace(tmp_path):
    """Batch norms and dropout are as if the smaller passes had been asked for."""
    asked = train(tmp_path, AdversaryTask(batch_size=4), name="asked", images_per_pass=2)
    tight = train(tmp_path, Small(batch_size=4), name="tight")
    assert all(torch.equal(asked.model[name], value) for name, value in tight.model.items())


class Died(BaseException):
    pass


def die(row):
    if row.step == 2:
        raise Died


def test_a_training_goes_on_with_the_passes_that_fitted(tmp_path):
    sizes = []

    class Watched(AdversaryTask):
        def losses(self, model, batch, at, phase):
            sizes.append(len(batch["x"]))
            return super().losses(model, batch, at, phase)

    with pytest.raises(Died):
        train(tmp_path, Small(**plain()), progress=die, checkpoint_every=1)
    assert train(tmp_path, Watched(**plain()), checkpoint_every=1).images_per_pass == 2
    assert set(sizes) == {2}
    sizes.clear()
    with pytest.raises(Died):
        train(tmp_path, Small(**plain()), name="asked", progress=die, checkpoint_every=1)
    assert train(tmp_path, Watched(**plain()), name="asked", images_per_pass=4).images_per_pass == 4
    assert set(sizes) == {4}


def test_what_was_halved_is_said(tmp_path, caplog):
    train(tmp_path, Small(**plain()))
    assert "a pass of 8 image(s) finds no room in memory (CUDA out of memory); goes on with 4" in caplog.text


def test_an_image_that_does_not_fit_alone_ends_the_training(tmp_path):
    with pytest.raises(RunError, match=r"a pass of 1 image\(s\) finds no room in memory .*smaller images"):
        train(tmp_path, Small(**plain(room=0)))


def test_where_statistics_of_a_pass_enter_the_loss_it_is_never_halved(tmp_path):
    task = Small(**plain(statistics=("retrain.detector.drop.percentile",)))
    with pytest.raises(ConfigError, match=r"retrain\.detector\.drop\.percentile takes statistics .*more workers"):
        train(tmp_path, task)


def test_smaller_passes_that_would_change_the_loss_are_refused(tmp_path):
    task = ToyTask(statistics=("mil.detector.dropblock.enabled",))
    with pytest.raises(ConfigError, match=r"expected 5, a worker's share.*mil\.detector\.dropblock\.enabled.*got 2"):
        train(tmp_path, task, images_per_pass=2)
    assert train(tmp_path, task, images_per_pass=5).steps_done == 6


def test_a_pass_that_was_a_whole_share_may_be_larger_when_fewer_workers_go_on(tmp_path):
    task = ToyTask(statistics=("retrain.detector.name",))
    with pytest.raises(Died):
        train(tmp_path, task, images_per_pass=5, progress=die, checkpoint_every=1)
    newest = Checkpoints(str(tmp_path / "run"), task.plan).newest()
    Checkpoints(str(tmp_path / "run"), task.plan).save({**newest, "images_per_pass": 2})  # as by more workers
    assert train(tmp_path, task, checkpoint_every=1).steps_done == 6


def test_a_worker_says_how_large_its_pass_was_through_processes():
    error = pickle.loads(pickle.dumps(PassTooLargeError(4, "full")))
    assert (error.images, str(error)) == (4, "a pass of 4 image(s) finds no room in memory (full)")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        pytest.param(OicrConfig(), (), id="OICR: all per image"),
        pytest.param(MistConfig(), ("dropblock.enabled",), id="MIST's adversary"),
        pytest.param(MistConfig(dropblock=DropBlockConfig(enabled=False)), (), id="MIST without it"),
        pytest.param(FasterRcnnConfig(), (), id="Faster R-CNN"),
        pytest.param(FasterRcnnConfig(drop=RoiDropConfig(enabled=True)), (), id="fixed thresholds"),
        pytest.param(
            FasterRcnnConfig(drop=RoiDropConfig(enabled=True, variant="normalised")), ("drop.variant",), id="normalised"
        ),
        pytest.param(
            FasterRcnnConfig(drop=RoiDropConfig(enabled=True, normaliser="kept")), ("drop.normaliser",), id="kept"
        ),
        pytest.param(FasterRcnnConfig(drop=RoiDropConfig(variant="percentile", tau_cls=90)), (), id="off"),
        pytest.param(DinoConfig(denoising_queries=0), ("name",), id="DINO's divisors"),
        pytest.param(
            DinoConfig(drop=QueryDropConfig(enabled=True)), ("name", "denoising_queries", "drop.percentile"), id="DINO"
        ),
        pytest.param(WeakTrConfig(), (), id="layer norms"),
        pytest.param(WeakTrConfig(stem="cnn"), ("stem",), id="batch norms of the small CNN"),
        pytest.param(ResNetCamConfig(), ("backbone",), id="batch norms of a ResNet"),
    ],
)
def test_options_say_whether_they_look_at_a_whole_pass(options, names):
    assert options.pass_statistics == names


def test_a_task_names_the_options_as_a_recipe_does():
    task = ClassifierTask(source=WeakTrConfig(stem="cnn"), config=ClassifierConfig(), num_classes=2, images=())
    assert task.pass_statistics == ("clues.source.stem",)

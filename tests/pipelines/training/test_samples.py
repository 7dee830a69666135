import signal
from collections import Counter

import pytest
import torch

from pipelines.training.samples import GlobalBatches, loader_of
from pipelines.training.task import TrainingPlan, steps_of
from tests.support.toy_training import ToyTask


def plan(images, epochs, batch_size):
    return TrainingPlan(images=images, steps=steps_of(images, epochs, batch_size), batch_size=batch_size, seed=0)


@pytest.mark.parametrize("world", [2, 3, 6])
@pytest.mark.parametrize("images_per_pass", [0, 1, 2, 4])
def test_any_number_of_workers_and_passes_shows_the_same_images_per_step(world, images_per_pass):
    p = plan(images=7, epochs=2, batch_size=12)
    workers = [
        list(GlobalBatches(p, rank=rank, world=world, images_per_pass=images_per_pass, start=0))
        for rank in range(world)
    ]
    passes = len(workers[0]) // p.steps
    assert {len(w) for w in workers} == {passes * p.steps}
    for step in range(p.steps):
        seen = [pair for w in workers for one in w[step * passes : (step + 1) * passes] for pair in one]
        assert Counter(seen) == Counter(p.batch(step))
    largest = max(len(one) for w in workers for one in w)
    assert largest <= (images_per_pass or 12)


def test_passes_of_a_resumed_training_are_the_rest_of_an_uninterrupted_one():
    p = plan(images=9, epochs=3, batch_size=4)
    whole = GlobalBatches(p, rank=1, world=2, images_per_pass=1, start=0)
    rest = GlobalBatches(p, rank=1, world=2, images_per_pass=1, start=5)
    assert list(whole)[-len(rest) :] == list(rest)
    assert len(list(whole)) == len(whole)


def test_loading_processes_leave_an_interrupt_to_their_parent():
    dataset = ToyTask().build_dataset()
    loader = loader_of(dataset, [[(0, 0)]], 1, torch.device("cpu"))
    assert loader.worker_init_fn is not None
    loader.worker_init_fn(0)  # signals are restored after every test
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

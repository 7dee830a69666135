"""What a training says of its loss drop."""

import pytest

from pipelines.training.loss_drop import dropped_shares, warn_of_dropped_positives
from pipelines.training.task import Progress
from tests.support.voice import Recorder


def row(step, **counts):
    return Progress(
        step=step,
        steps=9,
        epoch=0.0,
        loss=1.0,
        losses={"class": 1.0},
        counts=counts,
        lr=0.1,
        images_per_s=1.0,
        eta_s=0.0,
    )


def counted(step, positives, dropped):
    return row(step, foreground=positives, background=50.0, dropped_foreground=dropped, dropped_background=1.0)


def test_shares_are_of_all_instances_and_not_means_of_shares():
    rows = [counted(1, 10.0, 0.0), counted(2, 30.0, 10.0)]
    assert dropped_shares(rows) == {"foreground": 0.25, "background": 0.02}


@pytest.mark.parametrize(
    ("rows", "shares"),
    [
        ([], {}),
        ([row(1)], {}),
        ([row(1, positives=4.0)], {}),
        ([counted(1, 0.0, 0.0)], {"foreground": 0.0, "background": 0.02}),
    ],
    ids=["no-rows", "no-counts", "other-counts", "no-positives"],
)
def test_without_instances_there_is_nothing_to_share(rows, shares):
    assert dropped_shares(rows) == shares


def test_a_drop_of_more_than_thirty_per_cent_of_the_positives_is_warned_of_once():
    voice = Recorder()
    look = warn_of_dropped_positives(voice)
    for step, dropped in enumerate([0.0, 3.0, 3.1, 9.0]):
        look(counted(step, 10.0, dropped))
    look(row(5))
    printed = voice.text
    assert printed.count("the loss drop drops") == 1
    assert "drops 31% of the positives at step 2" in printed

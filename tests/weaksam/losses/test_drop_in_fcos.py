"""The example of ``losses/drop.py`` is run as it stands there: query drop in a detector of torchvision's."""

import textwrap
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops import sigmoid_focal_loss

from weaksam.config import QueryDropConfig
from weaksam.losses import drop

CLASSES, CHANNELS = 3, 32


def head_of_the_docstring():
    """The class that the module's documentation shows, from the lines after its '::'."""
    namespace = {}
    exec(textwrap.dedent(drop.__doc__.partition("::\n")[2]), namespace)
    return namespace["FcosHeadWithDrop"]


class OneMap(nn.Module):
    """A convolution of stride 8."""

    out_channels = CHANNELS

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, CHANNELS, kernel_size=8, stride=8)

    def forward(self, images):
        return OrderedDict([("0", self.layer(images))])


def build(head_type, percentile):
    torch.manual_seed(0)
    head = head_type(CHANNELS, 1, CLASSES, 1)
    head.drop = QueryDropConfig(enabled=True, percentile=percentile)
    anchors = AnchorGenerator(((8,),), ((1.0,),))
    return FCOS(OneMap(), CLASSES, min_size=64, max_size=64, anchor_generator=anchors, head=head).train()


def batch():
    images = list(torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    boxes = [[[4.0, 4.0, 36.0, 36.0], [30.0, 30.0, 62.0, 60.0]], [[10.0, 2.0, 60.0, 50.0]], []]
    labels = [[0, 2], [1], []]
    targets = [
        {"boxes": torch.tensor(b).reshape(-1, 4), "labels": torch.tensor(k, dtype=torch.int64)}
        for b, k in zip(boxes, labels, strict=True)
    ]
    return images, targets


def head_gradients(model):
    """Train once; return the losses, and the gradient of each of the head's outputs with the matches they had."""
    seen = {}
    original = model.head.compute_loss

    def remember(targets, outputs, anchors, matched_idxs):
        for value in outputs.values():
            value.retain_grad()
        seen.update(outputs=outputs, matched=torch.stack(matched_idxs))
        return original(targets, outputs, anchors, matched_idxs)

    model.head.compute_loss = remember
    losses = model(*batch())
    sum(losses.values()).backward()
    return losses, {name: value.grad for name, value in seen["outputs"].items()}, seen


def test_dropped_locations_get_no_gradient_and_all_others_their_own():
    plain_losses, plain, seen = head_gradients(build(FCOSHead, 100))
    losses, gradients, _ = head_gradients(build(head_of_the_docstring(), 70))
    foreground = seen["matched"] >= 0
    dropped = (gradients["cls_logits"] == 0).all(dim=2)
    assert foreground.sum() >= 10
    assert dropped.sum() == int(0.3 * foreground.sum() + 1e-6)
    assert foreground[dropped].all()
    for name, gradient in gradients.items():
        assert not gradient[dropped].any()
        assert torch.equal(gradient[~dropped], plain[name][~dropped])
        assert plain[name][dropped].any()
    assert losses == plain_losses  # values and divisors are FCOS's own: only what is learnt differs


def test_the_dropped_locations_are_those_that_are_hardest_to_classify():
    _, gradients, seen = head_gradients(build(head_of_the_docstring(), 90))
    logits, foreground = seen["outputs"]["cls_logits"].detach(), seen["matched"] >= 0
    dropped = (gradients["cls_logits"] == 0).all(dim=2)
    right = torch.full_like(foreground, -1, dtype=torch.int64)
    for row, target in enumerate(batch()[1]):
        places = foreground[row].nonzero()[:, 0]
        right[row, places] = target["labels"][seen["matched"][row, places]]
    wanted = nn.functional.one_hot(right.clamp(min=0), CLASSES).float()
    loss = sigmoid_focal_loss(logits, wanted, alpha=-1, gamma=0).sum(dim=2)  # binary cross-entropy by another road
    assert dropped.any()
    assert loss[dropped].min() >= loss[foreground & ~dropped].max()


@pytest.mark.parametrize("percentile", [90, 100])
def test_it_trains_and_predicts(percentile):
    model = build(head_of_the_docstring(), percentile)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    history = []
    for _ in range(8):
        loss = sum(model(*batch()).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < history[0]
    assert len(model.eval()(batch()[0])) == 3

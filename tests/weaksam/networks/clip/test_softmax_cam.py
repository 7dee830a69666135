"""Softmax Grad-CAM: worked by hand, against the gradient of every pair alone, and twice differentiable."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from weaksam.networks.clip.softmax_cam import class_probabilities, masked_softmax, softmax_cam

N, P, D, C, K = 3, 6, 5, 4, 2


def test_the_softmax_over_some_columns() -> None:
    found = masked_softmax(torch.tensor([[2.0, 1, 0, 1]]), torch.tensor([[1, 0, 1, 1]]).bool())
    assert found[0].tolist() == pytest.approx([0.665241, 0, 0.090031, 0.244728], abs=1e-6)


def test_an_absent_class_that_dominates_squashes_nothing() -> None:
    logits = torch.tensor([[100.0, 1, 0]])
    found = class_probabilities(logits, torch.tensor([[False, True]]))
    assert found.tolist()[0] == pytest.approx([0, 0.731059], abs=1e-6)


class Network:
    """A last block of a kind: patches mix, are bent and compared with prompts."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(0)
        self.mix = torch.randn(1 + P, 1 + P, generator=generator, dtype=dtype)
        self.prompts = torch.randn(C + K, D, generator=generator, dtype=dtype, requires_grad=True)
        self.activations = torch.randn(N, 1 + P, D, generator=generator, dtype=dtype).requires_grad_()
        self.present = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]]).bool()

    def probabilities(self, prompts: Tensor, activations: Tensor) -> Tensor:
        embedding = (self.mix @ activations).tanh()[:, 1:].mean(dim=1)
        return class_probabilities(embedding @ prompts.T, self.present)


def test_it_is_the_gradient_of_each_pair_alone() -> None:
    network = Network()
    probabilities = network.probabilities(network.prompts, network.activations)
    found = softmax_cam(network.activations, probabilities, network.present)
    expected = []
    for n, c in network.present.nonzero().tolist():
        (gradient,) = torch.autograd.grad(probabilities[n, c], network.activations, retain_graph=True)
        weights = gradient[n, 1:].mean(dim=0)
        expected.append([float(patch @ weights) for patch in network.activations[n, 1:].detach()])
    assert found.shape == (4, P)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-6)
    assert not found.requires_grad


def test_of_a_linear_network_it_is_the_projection() -> None:
    activations = torch.randn(1, 1 + P, D).requires_grad_()
    direction = torch.randn(D)
    score = (activations[:, 1:].sum(dim=1) @ direction / P)[:, None]
    found = softmax_cam(activations, score, torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(found[0], activations[0, 1:].detach() @ direction / P)


def test_its_weights_can_be_differentiated_and_its_activations_are_constants() -> None:
    network = Network(torch.float64)

    def maps(prompts: Tensor) -> Tensor:
        probabilities = network.probabilities(prompts, network.activations)
        return softmax_cam(network.activations, probabilities, network.present, differentiable=True)

    assert torch.autograd.gradcheck(maps, (network.prompts,))


def test_images_without_a_class_have_no_maps() -> None:
    network = Network()
    network.present = torch.zeros(N, C, dtype=torch.bool)
    probabilities = network.probabilities(network.prompts, network.activations)
    found = softmax_cam(network.activations, probabilities, network.present, differentiable=True)
    assert found.shape == (0, P)
    found.sum().backward()

import pytest
import torch

from tests.support.tolerances import assert_near
from weaksam.config import DropBlockConfig, MilConfig, MistConfig
from weaksam.detectors.loading import build_detector
from weaksam.detectors.mil.dropblock import ConcreteDropBlock
from weaksam.detectors.mil.samples import collate


def adversary_of(channels=8, **options):
    torch.manual_seed(0)
    return ConcreteDropBlock(channels, DropBlockConfig(**options))


def eager(adversary):
    """Make it want to hide every cell: the second batch norm's shift goes through a sigmoid."""
    torch.nn.init.constant_(adversary.block[4].bias, 50.0)
    return adversary


POOLED = torch.rand(300, 8, 7, 7, generator=torch.Generator().manual_seed(0)) + 0.5


def test_weights_start_as_published():
    adversary = adversary_of(channels=512)
    # Kaiming normal by fan-out: sqrt(2 / (outputs * cells of the kernel)). Margins are five standard errors, sqrt(1 / 2n) of
    # n weights each; PyTorch's own start is .0085 for the block and .026 for the shortcut.
    for conv, expected in ((adversary.block[0], 0.0208), (adversary.block[3], 1 / 3), (adversary.shortcut, 1.0)):
        weight = conv.weight.detach()
        assert weight.std().item() == pytest.approx(expected, rel=5 * (2 * weight.numel()) ** -0.5 + 0.002)
        assert abs(weight.mean().item()) < 5 * expected * weight.numel() ** -0.5
    # 4.55 % of a normal distribution lie beyond two standard deviations, none of a uniform one of the same width.
    beyond = (adversary.block[0].weight.detach().abs() > 2 * 0.0208).float().mean().item()
    assert beyond == pytest.approx(0.0455, abs=0.002)


def test_gates_start_near_their_ends():
    features = torch.rand(4, 512, 7, 7, generator=torch.Generator().manual_seed(0))
    q = adversary_of(channels=512).train().seed_probability(features) / (0.3 / 9)
    assert ((q < 0.1) | (q > 0.9)).float().mean().item() > 0.5


def test_in_evaluation_it_is_the_identity():
    adversary = eager(adversary_of()).eval()
    assert adversary(POOLED) is POOLED


def test_no_proposals_stay_none():
    assert adversary_of().train()(POOLED[:0]).shape == (0, 8, 7, 7)


def test_one_proposal_trains():
    adversary = adversary_of().train()
    adversary(POOLED[:1]).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in adversary.parameters())


def test_a_cell_never_seeds_more_often_than_gamma_over_the_blocks_area():
    adversary = eager(adversary_of()).train()
    q = adversary.seed_probability(POOLED)
    assert q.shape == (300, 1, 7, 7)
    assert q.min() > 0.03
    assert q.max() <= 0.3 / 9
    drawn = adversary.draw(POOLED).detach()
    assert set(drawn.unique().tolist()) == {0, 1}
    # 14,700 draws of probability 1/30: 490 expected, standard deviation 22.
    assert 380 < drawn.sum() < 600


def test_less_than_a_quarter_is_hidden_however_eager():
    # Away from the border a cell is shown if none of 9 cells seeds: (1 - 1/30)^9 = .737; at the border of fewer cells.
    shown = eager(adversary_of()).train()(POOLED).ne(0).float().mean().item()
    assert 0.75 < shown < 0.82


def test_what_is_hidden_is_a_block_and_the_rest_is_scaled_up_together():
    adversary = adversary_of(size=3, gamma=0.3).train()
    seeds = torch.zeros(4, 1, 7, 7)
    seeds[0, 0, 3, 3] = 1  # hides 9 cells
    seeds[1, 0, 0, 0] = 1  # hides 4 at the corner
    adversary.draw = lambda _: seeds
    found = adversary(torch.ones(4, 8, 7, 7))
    assert (found[0, 0] == 0).nonzero().tolist() == [[y, x] for y in (2, 3, 4) for x in (2, 3, 4)]
    assert (found[1, 5] == 0).nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    # 4 * 49 = 196 cells, 183 of them shown; the scale is one for all proposals.
    assert_near(found[2:], torch.full((2, 8, 7, 7), 196 / 183))


def test_all_hidden_is_finite():
    adversary = adversary_of(size=7, gamma=49.0).train()
    adversary.draw = lambda _: torch.ones(2, 1, 7, 7)
    assert not adversary(torch.ones(2, 8, 7, 7)).any()


@pytest.mark.parametrize("gamma", [0.0, 9.0])
def test_a_probability_of_0_or_1_has_a_finite_gradient(gamma):
    adversary = eager(adversary_of(gamma=gamma)).train()
    adversary(POOLED[:4]).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in adversary.parameters())


def test_it_has_the_published_size():
    # 512 * 512 * 9 + 512 * 2 * 9 + 512 * 2 convolution weights, 2 * 512 + 2 * 2 of batch norms
    assert sum(p.numel() for p in ConcreteDropBlock(512, DropBlockConfig()).parameters()) == 2_370_564


def test_the_pooled_features_get_no_gradient_through_the_adversary():
    adversary = adversary_of().train()
    pooled = POOLED[:2].clone().requires_grad_()
    adversary.seed_probability(pooled).sum().backward()
    assert pooled.grad is None


def small_mist(**dropblock):
    torch.manual_seed(0)
    config = MilConfig(backbone="small", freeze_stages=0, detector=MistConfig(dropblock=DropBlockConfig(**dropblock)))
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[0, 0, 30, 30], [10, 10, 60, 60], [32, 0, 64, 20.0]])
    batch = collate([(torch.randn(3, 64, 64, generator=generator), boxes)])
    return config, build_detector(config, 2).train(), (*batch, torch.tensor([[True, False]]))


def test_a_step_of_the_adversary_leaves_the_detector_alone():
    # A cell seeds with probability up to 1/2; at the published temperature of .01 only near ties have a gradient.
    config, detector, batch = small_mist(gamma=4.5, temperature=1.0)
    own = list(detector.adversary_parameters())
    optimizer = torch.optim.Adam(own, lr=1e-2)
    before = {name: value.clone() for name, value in detector.named_parameters()}
    loss = -config.detector.dropblock.loss_weight * sum(detector.training_losses(*batch).values())
    loss.backward(inputs=own)
    assert all(parameter.grad is None for parameter in detector.detector_parameters())
    assert any(parameter.grad.any() for parameter in own)
    optimizer.step()
    moved = {name for name, value in detector.named_parameters() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("adversary.") for name in moved)


def test_a_step_of_the_detector_leaves_the_adversary_alone():
    config, detector, batch = small_mist()
    before = [value.clone() for value in detector.adversary_parameters()]
    optimizer = torch.optim.Adam(detector.parameter_groups(config))
    sum(detector.training_losses(*batch).values()).backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, detector.adversary_parameters(), strict=True))


def test_without_it_there_is_nothing_to_train_and_nothing_is_drawn():
    _, detector, _ = small_mist(enabled=False)
    assert detector.adversary_parameters() == ()
    assert not [name for name in detector.state_dict() if name.startswith("adversary")]

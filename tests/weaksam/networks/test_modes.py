"""A network is in another mode for a while."""

from __future__ import annotations

import pytest
import torch

from weaksam.networks.modes import in_mode


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back_even_where_the_body_fails(before: bool, training: bool) -> None:
    network = torch.nn.Sequential(torch.nn.Dropout()).train(before)
    seen: list[bool] = []
    with pytest.raises(ZeroDivisionError), in_mode(network, training=training):
        seen.extend((network.training, network[0].training, 1 // 0 == 0))
    with in_mode(network, training=training):
        seen.extend((network.training, network[0].training))
    assert seen == [training] * 2
    assert network.training == network[0].training == before

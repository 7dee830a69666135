from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
import torch

from weaksam.config.precision import Precision
from weaksam.errors import ConfigError
from weaksam.networks.efficientnet_lite import RestingConvolution, RestingNorm
from weaksam.precision import computing, half_type, require_finite, tf32_within, use_tf32

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def switches_as_they_were() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def switches() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_tf32_is_switched_for_products_and_convolutions_of_a_gpu() -> None:
    use_tf32(True, GPU)
    assert switches() == (True, True)
    use_tf32(False, GPU)  # PyTorch itself leaves it on for convolutions
    assert switches() == (False, False)


def test_a_model_on_the_cpu_leaves_the_switches_of_others_alone() -> None:
    use_tf32(True, GPU)
    use_tf32(False, CPU)
    assert switches() == (True, True)


def test_only_fast_computes_products_in_half_precision() -> None:
    one, network = torch.eye(3), torch.nn.Linear(3, 3)
    expected: dict[Precision, torch.dtype] = {"exact": torch.float32, "tf32": torch.float32, "fast": half_type(CPU)}
    for wanted, dtype in expected.items():
        with computing(wanted, network, "precision"):
            assert (one @ one).dtype == network(one).dtype == dtype


@pytest.mark.parametrize("device", [CPU, GPU])
def test_a_network_that_computes_within_a_training_leaves_its_switches(device: torch.device) -> None:
    with tf32_within(True, GPU):
        with tf32_within(False, device):
            assert switches() == ((True, True) if device == CPU else (False, False))
        assert switches() == (True, True)


class Forgetful(torch.nn.Module):
    """Loses what its first layer found, as a threshold on scores does that lets no NaN pass."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(2, 1), torch.nn.Linear(1, 1)
        torch.nn.init.constant_(self.first.weight, weight)
        torch.nn.init.constant_(self.last.weight, 0.0)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.first(values).clamp(max=1.0))
        return found


class ForgetfulLite(torch.nn.Module):
    """A convolution and the norm behind it as EfficientNet-Lite has them, whose activation ends at 6."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        from timm.layers.norm_act import BatchNormAct2d

        convolution = torch.nn.Conv2d(2, 1, 1, bias=False)
        torch.nn.init.constant_(convolution.weight, weight)
        self.last = RestingNorm(BatchNormAct2d(1, act_layer=torch.nn.ReLU6))
        self.first = RestingConvolution(convolution, self.last)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.first(values[:, :, None, None]))
        return found


@pytest.mark.parametrize("make", [Forgetful, ForgetfulLite])
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_a_layer_whose_results_half_precision_does_not_hold_is_noticed(
    precision: Precision, make: Callable[[float], Forgetful | ForgetfulLite]
) -> None:
    values = torch.full((1, 2), 3e38)  # both float32 and bfloat16 hold it, but not four times as much
    modest, network = make(0.1), make(4.0)
    with computing(precision, modest, "detect.precision"):
        modest(values)
    told = (
        pytest.raises(ConfigError, match=r"detect\.precision: .*set detect\.precision=exact")
        if precision == "fast"
        else nullcontext()
    )
    with told, computing(precision, network, "detect.precision"):
        assert network(values).isfinite().all()
    assert not network.first._forward_hooks


def test_a_training_leaves_the_switches_that_it_found() -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True  # PyTorch's own
    with tf32_within(True, GPU):
        assert switches() == (True, True)
    assert switches() == (False, True)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_what_half_precision_could_not_hold_is_refused_by_the_options_name(value: float) -> None:
    require_finite(torch.tensor([65504.0]), "sam.precision", "fast")
    with pytest.raises(ConfigError, match=r"sam\.precision: .*set sam\.precision=exact"):
        require_finite(torch.tensor([0.0, value]), "sam.precision", "fast")
    with pytest.raises(ConfigError, match=r"got NaN or infinite ones in exact precision; its weights are damaged"):
        require_finite(torch.tensor([0.0, value]), "sam.precision", "exact")


@pytest.mark.gpu
def test_a_gpu_rounds_to_tf32_only_where_it_may() -> None:
    a, b = torch.randn(2, 512, 512, dtype=torch.float64, device="cuda")
    expected, error = a @ b, {}
    for wanted in (False, True):
        use_tf32(wanted, GPU)
        error[wanted] = ((a.float() @ b.float()).double() - expected).abs().max().item()
    assert error[True] > 20 * error[False]  # ten bits in the place of 23; before Ampere there is no TF32

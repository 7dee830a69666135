import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weaksam.config import QueryDropConfig, RoiDropConfig
from weaksam.losses.drop import drop_counts, drops_at, query_keep, roi_drop, roi_drop_counts, roi_keep

NAN, INF = math.nan, math.inf
# Two losses of five regions, of which the last two are background. With 4.0 / 1.0: 1 and 3 by class, 1 and 2 by box.
LOSS_CLS = [0.5, 4.5, 1.0, 6.0, 4.0]
LOSS_REG = [1.0, 3.0, 1.5, 0.0, 0.0]
FOREGROUND = [True, True, True, False, False]


def roi_config(**options):
    return RoiDropConfig(**({"enabled": True} | options))


def dropped_regions(losses_cls, losses_reg, foreground, **options):
    keep = roi_keep(
        torch.tensor(losses_cls),
        torch.tensor(losses_reg),
        torch.tensor(foreground, dtype=torch.bool),
        roi_config(**options),
    )
    assert keep.dtype == torch.bool
    assert keep.shape == (len(losses_cls),)
    return (~keep).nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, [1, 2, 3], id="either loss is enough; 4.0 and 1.0 are not above 4.0 and 1.0"),
        pytest.param({"rule": "all"}, [1], id="both losses are needed, which a background region never has"),
        pytest.param({"droppable": "foreground"}, [1, 2], id="the background stays"),
        pytest.param({"rule": "all", "droppable": "foreground"}, [1], id="the published code"),
        pytest.param({"tau_cls": INF}, [1, 2], id="box losses alone"),
        pytest.param({"tau_reg": INF}, [1, 3], id="class losses alone"),
        pytest.param({"tau_cls": INF, "tau_reg": INF}, [], id="infinite thresholds"),
        pytest.param({"tau_cls": 0.0, "rule": "all", "tau_reg": 0.0}, [0, 1, 2], id="0 drops whatever has a loss"),
    ],
)
def test_fixed_thresholds(options, expected):
    assert dropped_regions(LOSS_CLS, LOSS_REG, FOREGROUND, **options) == expected


@pytest.mark.parametrize(
    ("losses_cls", "losses_reg", "options", "expected"),
    [
        # class: max - min = 4 over all five; boxes: 2 over the foreground's three (3 with the background's zeros)
        pytest.param([0, 4, 1, 2, 3], [1, 3, 2, 0, 0], {"tau_cls": 0.5, "tau_reg": 9.0}, [1, 4], id="class"),
        pytest.param([0, 4, 1, 2, 3], [1, 3, 2, 0, 0], {"tau_cls": 9.0, "tau_reg": 0.9}, [1, 2], id="boxes"),
        pytest.param(
            [0, 2, 1.5, 9, 3], [1, 1, 1, 0, 0], {"tau_cls": 0.8, "droppable": "foreground"}, [1], id="foreground alone"
        ),
        pytest.param([5, 5, 5, 5, 5], [2, 2, 2, 0, 0], {"tau_cls": 0.0, "tau_reg": 0.0}, [], id="all losses equal"),
    ],
)
def test_normalised_thresholds(losses_cls, losses_reg, options, expected):
    floats = [[float(v) for v in values] for values in (losses_cls, losses_reg)]
    assert dropped_regions(*floats, FOREGROUND, variant="normalised", **options) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"tau_cls": 60.0, "tau_reg": 100.0}, [1, 3], id="the 2 highest of 5 class losses"),
        pytest.param({"tau_cls": 61.0, "tau_reg": 100.0}, [3], id="floor(1.95)"),
        pytest.param({"tau_cls": 100.0, "tau_reg": 66.0}, [1], id="the highest of 3 box losses"),
        pytest.param({"tau_cls": 66.0, "tau_reg": 100.0, "droppable": "foreground"}, [1], id="of 3 class losses"),
        pytest.param({"tau_cls": 0.0, "tau_reg": 100.0}, [0, 1, 2, 3, 4], id="0 drops all"),
        pytest.param({"tau_cls": 100.0, "tau_reg": 100.0}, [], id="100 drops none"),
        pytest.param({"tau_cls": 60.0, "tau_reg": 66.0, "rule": "all"}, [1], id="both"),
    ],
)
def test_percentiles_of_the_batch(options, expected):
    assert dropped_regions(LOSS_CLS, LOSS_REG, FOREGROUND, variant="percentile", **options) == expected


def test_of_equal_losses_the_percentile_drops_exactly_its_number_those_of_lower_index():
    options = {"variant": "percentile", "tau_cls": 50.0, "tau_reg": 100.0}
    assert dropped_regions([2.0, 2.0, 1.0, 2.0, 2.0], LOSS_REG, FOREGROUND, **options) == [0, 1]


@pytest.mark.parametrize("variant", ["fixed", "normalised", "percentile"])
def test_no_regions_and_no_foreground(variant):
    config = {"variant": variant, "tau_cls": 0.5, "tau_reg": 0.5}
    assert dropped_regions([], [], [], **config) == []
    kept = roi_keep(torch.tensor([0.1]), torch.tensor([0.0]), torch.tensor([False]), roi_config(**config))
    assert kept.tolist() == [True]


@pytest.mark.parametrize("variant", ["fixed", "normalised", "percentile"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_loss_that_is_not_finite_stays_and_the_others_are_judged_without_it(variant, value):
    options = {
        "variant": variant,
        "tau_cls": 0.9 if variant == "normalised" else 50.0 if variant == "percentile" else 4.0,
    }
    options |= {"tau_reg": 100.0}
    without = dropped_regions([1.0, 2.0, 6.0, 3.0], [0.0] * 4, [True] * 4, **options)
    assert dropped_regions([1.0, 2.0, 6.0, 3.0, value], [0.0] * 4 + [200.0], [True] * 5, **options) == without
    assert dropped_regions([1.0, 2.0, 6.0, 3.0, 9.0], [0.0] * 4 + [value], [True] * 5, **options) == without
    assert without  # or nothing would be said


def test_the_reasons_are_named_and_counted_per_image():
    losses = torch.tensor(LOSS_CLS), torch.tensor(LOSS_REG)
    foreground = torch.tensor(FOREGROUND)
    drop = roi_drop(*losses, foreground, roi_config())
    assert drop.keep.tolist() == [True, False, False, False, True]
    assert drop.by_class_loss.tolist() == [False, True, False, True, False]
    assert drop.by_box_loss.tolist() == [False, True, True, False, False]
    counts = roi_drop_counts(foreground, drop, images=2)
    assert {name: value.item() for name, value in counts.items()} == {
        "foreground": 1.5, "background": 1.0, "dropped_foreground": 1.0, "dropped_background": 0.5,
        "dropped_by_class_loss": 1.0, "dropped_by_box_loss": 1.0,
    }  # fmt: skip
    both = roi_drop(*losses, foreground, roi_config(rule="all"))  # what stays has no reason to go
    assert (both.by_class_loss.tolist(), both.by_box_loss.tolist()) == ([False, True, False, False, False],) * 2


def test_counts_have_the_same_names_where_nothing_drops():
    foreground = torch.tensor(FOREGROUND)
    drop = roi_drop(torch.tensor(LOSS_CLS), torch.tensor(LOSS_REG), foreground, roi_config())
    off = roi_drop_counts(foreground, None, images=1)
    assert list(off) == list(roi_drop_counts(foreground, drop, images=1))
    assert [value.item() for value in off.values()] == [3, 2, 0, 0, 0, 0]
    assert all(value.dtype == torch.float32 and value.ndim == 0 for value in off.values())
    assert drop_counts(foreground, drop.keep, 1) == {k: v for k, v in off.items() if "by" not in k} | {
        "dropped_foreground": torch.tensor(2.0), "dropped_background": torch.tensor(1.0)
    }  # fmt: skip
    empty = drop_counts(torch.zeros(0, dtype=torch.bool), None, images=1)
    assert [value.item() for value in empty.values()] == [0, 0, 0, 0]


def kept_queries(losses, foreground, **options):
    return query_keep(torch.tensor(losses), torch.tensor(foreground), QueryDropConfig(enabled=True, **options)).tolist()


@pytest.mark.parametrize(("matched", "dropped"), [(0, 0), (1, 0), (9, 0), (10, 1), (25, 2), (30, 3)])
def test_a_tenth_of_the_matched_queries_goes_rounded_down(matched, dropped):
    foreground = [True] * matched + [False] * 50
    losses = [float(k) for k in range(matched)] + [1000.0] * 50
    kept = kept_queries(losses, foreground)
    assert kept == [True] * (matched - dropped) + [False] * dropped + [True] * 50


def test_equal_matched_queries_lose_those_of_lower_index():
    assert kept_queries([1.0] * 4, [False, True, True, True], percentile=60) == [True, False, True, True]


@pytest.mark.parametrize(
    ("losses", "foreground", "percentile", "expected"),
    [
        # foreground 1, 3, 5 -> 0, .5, 1; background .1, .2, .8 -> 0, 1/7, 1
        pytest.param([1, 0.1, 3, 0.8, 0.2, 5], [1, 0, 1, 0, 0, 1], 50, [1, 1, 0, 0, 1, 0], id="each by its own range"),
        pytest.param([1, 0.1, 3, 0.8, 0.2, 5], [1, 0, 1, 0, 0, 1], 80, [1, 1, 1, 0, 1, 1], id="a tie of two groups"),
        pytest.param([7, 0.1, 0.2, 0.3], [1, 0, 0, 0], 75, [1, 1, 1, 0], id="a single matched query has no range"),
        pytest.param([0.3, 0.1], [0, 0], 50, [0, 1], id="none matched"),
        pytest.param([0.3, 0.1], [1, 1], 50, [0, 1], id="all matched"),
    ],
)
def test_queries_of_both_kinds_compete_by_normalised_losses(losses, foreground, percentile, expected):
    kept = kept_queries([float(v) for v in losses], [bool(f) for f in foreground], percentile=percentile, scope="all")
    assert kept == [bool(k) for k in expected]


@pytest.mark.parametrize("scope", ["foreground", "all"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_queries_whose_loss_is_not_finite_stay(scope, value):
    options = {"percentile": 50, "scope": scope}
    assert kept_queries([1.0, value, 3.0, 2.0], [True] * 4, **options) == [True, True, False, True]
    none = query_keep(torch.zeros(0), torch.zeros(0, dtype=torch.bool), QueryDropConfig(scope=scope))
    assert none.shape == (0,)


@given(
    tenths_of_percent=st.integers(0, 1000),
    losses=st.lists(st.integers(0, 5), max_size=120),
    foreground=st.lists(st.booleans(), min_size=120, max_size=120),
)
def test_the_number_dropped_is_exact_and_no_kept_loss_is_higher(tenths_of_percent, losses, foreground):
    marked = torch.tensor(foreground[: len(losses)], dtype=torch.bool)
    values = torch.tensor(losses, dtype=torch.float32)
    keep = query_keep(values, marked, QueryDropConfig(percentile=tenths_of_percent / 10))
    expected = math.floor(Fraction(1000 - tenths_of_percent, 1000) * int(marked.sum()))
    assert int((~keep).sum()) == expected
    assert keep[~marked].all()
    if 0 < expected < marked.sum():
        assert values[~keep].min() >= values[keep & marked].max()


def test_a_mask_carries_no_gradient_and_does_not_depend_on_it():
    losses = torch.tensor(LOSS_CLS, requires_grad=True), torch.tensor(LOSS_REG, requires_grad=True)
    foreground = torch.tensor(FOREGROUND)
    assert not any(mask.requires_grad for mask in roi_drop(*losses, foreground, roi_config()))
    assert not query_keep(losses[0], foreground, QueryDropConfig()).requires_grad


def test_a_drop_begins_at_its_first_step_if_it_is_on():
    assert [drops_at(RoiDropConfig(enabled=True, start_step=2), step) for step in range(4)] == [
        False,
        False,
        True,
        True,
    ]
    assert not drops_at(RoiDropConfig(start_step=0), 5)
    assert drops_at(QueryDropConfig(enabled=True), 0)
    assert not drops_at(QueryDropConfig(), 0)

"""The page and the tables of a sweep, from records made by hand."""

import re

import pytest

from pipelines.variants.objectives.agreement import RANK
from tune.report import page_of
from tune.results import how_many, ranking, spread, text_tables, where
from tune.search import Outcome, with_ranks
from tune.sweep import BEST, Sweep
from tune.trial import Record

SPACE = {
    "pseudo_labels.tau_s": {"grid": [0.1, 0.3]},
    "pseudo_labels.tau_o": {"grid": [0.8, 0.9]},
    "retrain.lr": {"grid": [1, 2]},
}


def sweep_of(**fields):
    return Sweep.model_validate({"name": "s", "recipe": "r", "space": SPACE, "objective": "ap50", **fields})


def settings_of(tau_s, tau_o, lr):
    return dict(zip(SPACE, (tau_s, tau_o, lr), strict=True))


def record_of(settings, select, report, *, state="finished", seeds=("0",), **fields):
    by_seed = {seed: {"select": select, "report": report} for seed in seeds}
    key = " ".join(map(str, settings.values()))
    record = {"select": select, "report": report, "by_seed": by_seed, "seconds": 1.0, "ended": key}
    return Record(key=key, settings=settings, state=state, **{**record, **fields})


def outcome_of(sweep, records, compared=(), planned=None):
    finished = [record for record in records if record.state == "finished"]
    return Outcome(
        sweep=sweep,
        trials=tuple((record.settings, record) for record in records),
        planned=planned or len(records),
        best=max(finished, key=lambda record: record.select[sweep.objective]),
        compared=dict(compared),
    )


def grid():
    """Eight trials. Of two that differ in the rate alone, what is selected and what is reported prefer different ones."""
    return [
        record_of(
            settings_of(s, o, lr), {"ap50": s + o / 10 + lr / 100}, {"ap50": s + o / 10 + (0.5 if lr == 1 else 0)}
        )
        for s in (0.1, 0.3)
        for o in (0.8, 0.9)
        for lr in (1, 2)
    ]


def cells(table):
    """Texts of a heat map, the outlined ones with a star."""
    return [("*" if best else "") + text for best, text in re.findall('class="heat( best)?"[^>]*>(.*?)<', table)]


def test_a_cell_shows_the_trial_that_was_selected_also_where_it_is_reported():
    page = page_of(outcome_of(sweep_of(), grid()))
    maps = [table for table in re.findall("<table>.*?</table>", page, re.DOTALL) if 'class="heat' in table]
    assert len(maps) == 3 * 2  # pairs of knobs, parts
    assert "tau_s ↓<br>tau_o →" in maps[0]
    assert "ap50, selected on val, %" in maps[0]
    assert cells(maps[0]) == ["20.0", "21.0", "40.0", "*41.0"]
    assert "ap50, reported on test, %" in maps[1]
    assert cells(maps[1]) == ["18.0", "19.0", "38.0", "*39.0"]  # not 68 to 89, which the other rate has there
    assert "Of trials that share a cell, it shows the one with the best ap50 on" in page


def test_one_line_is_the_best_also_where_all_are_equal():
    records = [record_of(settings_of(s, 0.8, 1), {"ap50": 0.5}, {"ap50": 0.5}) for s in (0.1, 0.3)]
    page = page_of(outcome_of(sweep_of(), records))
    assert page.count('<g class="best"') == page.count('<g class="trial"') == 1


def test_the_page_says_which_images_figures_are_of_and_what_did_not_run():
    sweep = sweep_of(objective="pseudo_f1", also=["ap50"])
    records = [
        record_of(settings_of(0.1, 0.8, n), {"pseudo_f1": n / 4, "ap50": 0.5}, {"pseudo_f1": 0.3, "ap50": 0.4})
        for n in (1, 2)
    ]
    failed = record_of(settings_of(0.3, 0.8, 1), {}, {}, state="failed", error="no <b>memory</b>")
    outcome = outcome_of(sweep, [*records, failed], planned=8)
    assert where(outcome, "pseudo_f1") == ("half of the training images", "the other half of the training images")
    assert where(outcome, "ap50") == ("val", "test")
    assert how_many(outcome) == "8 trials: 2 finished, 1 failed, 5 not run"
    page = page_of(outcome)
    assert "on half of the training images" in page
    assert "ap50, reported on test, %" in page
    assert "no &lt;b&gt;memory&lt;/b&gt;" in page
    assert "5 not run" in str(text_tables(outcome)[0].title)


def test_a_spread_is_shown_where_a_seed_makes_a_difference():
    record = record_of({}, {}, {"ap50": 0.5, "pseudo_f1": 0.5}, seeds=("0", "1"))
    record.by_seed["1"] = {"select": {}, "report": {"ap50": 0.52, "pseudo_f1": 0.5}}
    assert spread(record, "ap50") == "51.0 ±2.0"
    assert spread(record, "pseudo_f1") == "50.0"
    assert spread(record, "map") == "–"
    assert spread(record_of({}, {}, {}, state="failed"), "ap50") == "failed"


def test_a_comparison_that_failed_says_so_and_seeds_that_chose_the_best_are_named():
    records = grid()[:1]
    compared = {
        BEST: records[0],
        "paper": record_of({"pseudo_labels.tau_s": 0.5}, {}, {}, state="failed", error="line one\nout of memory"),
    }
    page = page_of(outcome_of(sweep_of(compare={"paper": {}}, compare_seeds=[0, 3]), records, compared))
    assert "seeds 0, 3; the best was chosen by seed 0, which flatters it" in page
    assert "<td>failed</td>" in page
    assert "paper: out of memory" in page
    page = page_of(outcome_of(sweep_of(compare={"paper": {}}, compare_seeds=[3, 4]), records, compared))
    assert "over seeds 3, 4</span>" in page


def test_what_is_not_reported_has_no_column_of_its_own():
    # Agreement is known where trials are selected, and nowhere else.
    records = [record_of(settings_of(0.1, 0.8, n), {"ap50": 0.1, "agreement": 0.7}, {"ap50": 0.2}) for n in (1, 2)]
    outcome = outcome_of(sweep_of(also=["agreement"]), records, {BEST: records[0]})
    page = page_of(outcome)
    compared, *_, trials = re.findall(r"<thead>\s*(<tr>.*?</tr>)", page, re.DOTALL)
    assert re.findall(r"<th[^>]*>([^<]*)</th>", compared)[-2:] == ["lr", "ap50"]
    assert re.findall(r"<th[^>]*>([^<]*)</th>", trials)[-4:] == ["ap50", "reported", "agreement", "s"]
    assert [column.heading for column in text_tables(outcome)[1].columns][-2:] == ["lr", "ap50"]


def test_without_true_boxes_no_table_of_ranks_is_shown():
    sweep = sweep_of(objective="classification_map", also=["agreement"])
    values = ((0.1, 0.3), (0.2, 0.2), (0.3, 0.1))
    records = [
        record_of(settings_of(0.1, 0.8, n), dict(zip(("classification_map", "agreement"), both, strict=True)), {})
        for n, both in enumerate(values)
    ]
    outcome = outcome_of(sweep, records)
    assert ranking(outcome) == []
    assert len(text_tables(outcome)) == 1


def test_objectives_are_judged_by_the_reported_figure_of_what_they_choose():
    sweep = sweep_of(also=["classification_map", "agreement", RANK])
    selected = [(0.1, 0.3, 0.9), (0.2, 0.2, 0.8), (0.3, 0.1, 0.7), (0.4, 0.0, 0.95)]
    records = [
        record_of(
            settings_of(0.1, 0.8, n),
            dict(zip(("ap50", "classification_map", "agreement"), values, strict=True)),
            {"ap50": (n + 1) / 10},
        )
        for n, values in enumerate(selected)
    ]
    rows = {row["objective"]: row for row in ranking(outcome_of(sweep, with_ranks(sweep, records)))}
    assert (rows["ap50"]["rho"], rows["ap50"]["chosen"]) == (pytest.approx(1), 0.4)
    assert (rows["classification_map"]["rho"], rows["classification_map"]["chosen"]) == (pytest.approx(-1), 0.1)
    # Ranks 3 2 1 4 of .9 .8 .7 .95 against 1 2 3 4: 1 - 6 * (4 + 0 + 4 + 0) / 60.
    assert rows["agreement"]["rho"] == pytest.approx(0.2)
    assert (rows["agreement"]["remarks"], rows["ap50"]["remarks"]) == (["label-free"], [])
    # Mean ranks of (3 2 1 0) and (2 1 0 3): 2.5 1.5 .5 1.5 of 3; with a tie, Spearman is Pearson's of 4 2.5 1 2.5 and 1 2 3 4.
    assert rows[RANK]["rho"] == pytest.approx(-3 / (4.5 * 5) ** 0.5)
    assert rows[RANK]["chosen"] == 0.1


def test_an_objective_of_which_less_is_better_chooses_the_least():
    sweep = sweep_of(also=["part"])
    records = [
        record_of(settings_of(0.1, 0.8, n), {"ap50": 0.1, "part": part}, {"ap50": (n + 1) / 10})
        for n, part in enumerate((0.3, 0.1, 0.2))
    ]
    (row,) = (row for row in ranking(outcome_of(sweep, records)) if row["objective"] == "part")
    assert (row["chosen"], row["remarks"]) == (0.2, ["less is better"])
    assert "part (less is better)" in str(text_tables(outcome_of(sweep, records))[-1].rows)

import pathlib
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from pipelines.analyse.similarity import grey_png
from pipelines.report.sections import gallery
from pipelines.store.files import write_bytes, write_json
from pipelines.store.schemas import PROPOSALS, with_class_names
from tests.support.drawn_run import SHAPES, drawn_recipe, job_for, work, write_clues, write_run
from tests.support.measured import PROMPTS
from tests.support.page import NASTY, Page
from tests.support.sets import FROM_NOTHING, instance_of
from weaksam.config import SamConfig
from weaksam.datasets.shapes import Shapes
from weaksam.structures import ImageRecord

UPSTREAM = ("index", "train-classifier", "propose", "evaluate.proposals", "analyse.prompts")


def make_page(run, recipe=None, upstream=UPSTREAM):
    recipe = recipe or drawn_recipe()
    if "evaluate.proposals" in upstream:
        job = job_for(recipe, run, "evaluate.proposals", ("propose",))
        job.instance.finish(work(job))
    if "analyse.prompts" in upstream:
        instance = instance_of(run, "analyse.prompts")
        write_json(instance.file("analysis.json"), PROMPTS)
        instance.finish(
            {"text": "compared", "seconds": 61.0, "throughput": {"images": 1234, "images_per_s": 8.625, "seconds": 9.0}}
        )
    job = job_for(recipe, run, "report", upstream)
    summary = work(job)
    with open(f"{run}/report.html", encoding="utf-8") as file:
        text = file.read()
    return text, Page(text), summary


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    run = str(tmp_path_factory.mktemp("run"))
    write_run(run)
    write_clues(run)
    return make_page(run)


def test_the_page_is_complete_in_itself(page):
    text, parsed, summary = page
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", text)
    assert "script" not in parsed.tags
    assert "link" not in parsed.tags
    assert all(image["src"].startswith("data:image/") for image in parsed.of("img"))
    assert "report.html" in summary["text"]


def test_the_page_is_well_formed_and_accessible(page):
    _, parsed, _ = page
    assert parsed.open == []
    assert parsed.of("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in parsed.of("img"))
    assert all("scope" in header for header in parsed.of("th"))
    assert parsed.tags.count("caption") == parsed.tags.count("table")
    assert all("aria-label" in chart for chart in parsed.of("svg") if chart.get("role") == "img")
    ids = [attrs["id"] for _, attrs in parsed.attributes if "id" in attrs]
    assert len(ids) == len(set(ids))
    for link in parsed.of("a"):
        assert link["href"].removeprefix("#") in ids


@pytest.mark.parametrize(
    "shown",
    [
        "Recall by source",
        "+ coarse",
        "random × 3",
        "±4.0",
        "denser grid",
        "truncated",
        "low predicted IoU",
        "points_per_side: 3",
        "9 grid",
        "1 min 1 s1,2348.6compared",  # time, images, images a second
    ],
)
def test_the_page_shows(page, shown):
    assert shown in page[1].text


def test_heat_maps_are_of_the_classes_that_an_image_was_prompted_for(page):
    text, parsed, _ = page
    captions = [caption.partition(":")[0] for caption in re.findall(r"<figcaption>(.*?)</figcaption>", text)]
    dataset = Shapes(SHAPES)
    labels = {r.image_id: r.labels for split in dataset.splits for r in dataset.records(split)}
    shown = re.findall(r'<h3 id="image-\d+">(\S+)', text)
    assert len(shown) == 3
    wanted = [
        f"{Shapes.class_names[c]}, {s} map" for i in shown for c in labels[i] for s in ("fine", "coarse", "cross")
    ]
    assert [caption for caption in captions if caption.endswith(" map")] == wanted
    assert "Heat runs from violet" in parsed.text
    assert "No heat maps" not in parsed.text


def test_where_no_proposals_saw_clues_the_heat_maps_are_the_classifiers(tmp_path):
    write_run(str(tmp_path))
    write_clues(str(tmp_path))
    recipe = drawn_recipe()
    propose, unread = replace(recipe.propose, method="selective-search"), SamConfig(precision="tf32")
    recipe = recipe.model_copy(update={"propose": propose, "sam": unread})  # no stage reads the latter
    text, parsed, _ = make_page(str(tmp_path), recipe, upstream=("index", "train-classifier", "propose"))
    of_clues, _, _ = make_page(str(tmp_path), upstream=("index", "train-classifier", "propose"))
    assert "Heat runs from violet" in parsed.text
    maps, maps_of_clues = (re.findall("<figcaption>(.*? map)", page) for page in (text, of_clues))
    assert maps
    assert maps == maps_of_clues
    _, without, _ = make_page(str(tmp_path), recipe, upstream=("index", "propose"))
    assert "Heat runs" not in without.text
    assert "No heat maps" not in without.text


def test_a_page_tells_of_sam_and_clues_where_proposals_are_theirs(tmp_path, page):
    assert {"SAM", "clues"} <= set(re.findall("<dt>(.*?)</dt>", page[0]))
    write_run(str(tmp_path))
    instance_of(str(tmp_path), "propose").begin({})  # as of Selective Search
    text, _, _ = make_page(str(tmp_path), upstream=("index", "propose"))
    assert "propose k" in text
    assert not {"SAM", "clues"} & set(re.findall("<dt>(.*?)</dt>", text))


def test_a_page_says_why_it_has_no_heat_maps(tmp_path, caplog):
    write_run(str(tmp_path))
    _, parsed, _ = make_page(str(tmp_path), upstream=("index", "propose"))
    assert parsed.text.count("No heat maps of propose: train-classifier is not finished") == 1
    write_clues(str(tmp_path))
    (tmp_path / "train-classifier/k/classifier.safetensors").write_bytes(b"broken")
    _, parsed, _ = make_page(str(tmp_path), upstream=("index", "train-classifier", "propose"))
    assert parsed.text.count("No heat maps of propose: ") == 1
    assert "Heat runs" not in parsed.text
    assert [r.message.partition(":")[0] for r in caplog.records] == ["no heat maps of propose"] * 2


def test_a_run_without_figures_still_makes_a_page(tmp_path):
    write_run(str(tmp_path), dropped=0)
    text, parsed, _ = make_page(str(tmp_path), upstream=("index", "propose"))
    assert "Recall by source" not in text
    assert "None: every image has proposals." in text
    assert parsed.open == []


def test_a_table_without_rows_still_makes_a_page(tmp_path):
    write_run(str(tmp_path), dropped=10)
    _, parsed, _ = make_page(str(tmp_path), upstream=("index", "propose"))
    assert parsed.text.count("No image has proposals.") == 2  # no chart and no gallery
    assert "propose dropped 10 of 10 images: truncated 10." in parsed.text
    assert "No image of the split train is left." in parsed.text
    assert "such as shapes:" in parsed.text
    assert parsed.open == []


def test_a_page_without_true_boxes_has_no_columns_for_recall(tmp_path, monkeypatch):
    run = str(tmp_path)
    write_run(run)
    monkeypatch.setattr(Shapes, "ground_truth", lambda *_, **__: {})
    text, parsed, _ = make_page(run, upstream=("index", "propose", "evaluate.proposals"))
    assert parsed.text.count("The true boxes of this split are not known, so there is no recall.") == 2
    assert "one-to-one" not in text
    assert "–" not in re.findall("<table>.*?</table>", text, re.DOTALL)[0]


def test_only_sources_and_prompts_that_are_there_are_explained(page):
    legend = re.findall(r'aria-label="Colours of boxes">(.*?)</ul>', page[0], re.DOTALL)[0]
    assert re.sub("<.*?>", " ", legend).split() == ["true", "objects", "grid", "fine", "cross"]  # coarse made no box
    assert "a small dot is a grid point, a disc is a peak of one class, tied squares" in page[1].text
    assert "Whole-image" not in page[1].text


def test_the_one_box_of_images_in_which_nothing_was_found_is_explained(tmp_path):
    run = str(tmp_path)
    write_run(run)
    table = instance_of(run, "propose").table(with_class_names(PROPOSALS, Shapes.class_names))
    (first, *_) = table.parts()
    row = next(table.iter_rows())
    pathlib.Path(first).unlink()
    alone = {"boxes_xyxy": [[0, 0, 64, 64]], "prompt_index": [-1], "mask_index": [-1], "predicted_iou": [None]}
    table.write_rows([{**row, **alone, "source": ["whole-image"]}], "part-0")
    _, parsed, _ = make_page(run)
    assert "Whole-image: the one box of an image in which nothing else was found." in parsed.text


def test_a_run_that_was_stopped_before_its_proposals_still_makes_a_page(tmp_path):
    write_run(str(tmp_path))
    shutil.rmtree(tmp_path / "propose")
    _, parsed, _ = make_page(str(tmp_path), upstream=("index", "propose"))
    assert "not finishedpropose, evaluate.proposals, analyse.prompts" in parsed.text.replace("\n", "").replace(
        " <", "<"
    )


def test_the_similarity_of_proposals_is_shown_with_the_first_images_matrices(tmp_path):
    run = str(tmp_path)
    write_run(run)
    rows = [
        {"name": "all", "proposals": 2.5, "values": {"a": 0.25, "b": 0.75}, "mean": 0.5, "spread": 0.5},
        {"name": "grid", "proposals": 1.5, "values": {"a": None, "b": 0.5}, "mean": 0.5, "spread": 0.0},
        {"name": "fine", "proposals": 0.0, "values": {"a": None, "b": None}, "mean": None, "spread": None},
    ]
    instance = instance_of(run, "analyse.similarity")
    write_json(instance.file("analysis.json"), {"split": "train", "images": ["a", "b"], "rows": rows})
    write_bytes(instance.file("similarity-all.png"), grey_png(np.float32([[1, 0.25], [0.25, 1]])))
    instance.finish({"text": "compared", "seconds": 1.0})
    text, parsed, _ = make_page(run, upstream=("index", "propose", "analyse.similarity"))
    assert "How alike are the proposals?" in parsed.text
    assert "Do the clues say where?" not in parsed.text
    table = text[text.index('id="similarity"') :]
    cells = [re.sub("<.*?>", " ", row).split() for row in re.findall("<tr>.*?</tr>", table, re.DOTALL)]
    assert cells[1:4] == [
        ["all", "2.5", "0.500", "±0.500"], ["grid", "1.5", "0.500", "±0.000"], ["fine", "0.0", "–"],
    ]  # fmt: skip
    shown = [image for image in parsed.of("img") if "Cosine" in image["alt"]]
    assert [(image["alt"], image["width"]) for image in shown] == [
        ("Cosine of every two proposals of a, all: mean 0.250", "2")
    ]


def test_names_from_outside_are_escaped(tmp_path):
    run = str(tmp_path)
    write_run(run, others=[ImageRecord(image_id=NASTY, uri=NASTY, split=NASTY, labels=None, labels_difficult=None)])
    told = {"stage": "propose", "uri": NASTY, "reason": NASTY, "detail": NASTY}
    row = {"image_id": NASTY, "input": FROM_NOTHING, **told}
    instance_of(run, "propose").dropped.write_rows([row], "part-1")
    recipe = drawn_recipe(name=NASTY, description=NASTY, report=drawn_recipe().report)
    text, parsed, _ = make_page(run, recipe)
    assert NASTY not in text
    assert "script" not in parsed.tags
    assert parsed.text.count(NASTY) >= 6  # shown as written


def test_an_image_that_is_gone_is_named_instead_of_shown(tmp_path):
    run = str(tmp_path)
    write_run(run)
    index = tmp_path / "index" / "k" / "part-0.parquet"
    from pipelines.store.schemas import IMAGES

    table = instance_of(run, "index").table(IMAGES)
    rows = [{**row, "uri": f"/nowhere/{row['image_id']}.png"} for row in table.iter_rows()]
    index.unlink()
    table.write_rows(rows, "part-0")
    text, _, _ = make_page(run, upstream=("index", "propose"))
    assert "cannot be read again: missing" in text


def test_the_gallery_stops_before_the_page_grows_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "_MOST_BYTES", 30_000)
    write_run(str(tmp_path))
    text, parsed, _ = make_page(str(tmp_path), upstream=("index", "propose"))
    assert 0 < parsed.tags.count("article") < 3
    assert "more would make this page too large" in text

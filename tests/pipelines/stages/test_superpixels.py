"""SAM's masks of everything: of which images, what the rows hold, and what makes them anew."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.dataflow.rows import FETCHED
from pipelines.engine.stage import Options
from pipelines.products.index import Index
from pipelines.products.superpixels import SuperpixelTable
from pipelines.recipe.model import Recipe, load_recipe
from pipelines.runner import Run
from pipelines.stages.superpixels import EverythingActor, EverythingSpec
from pipelines.store.instances import Instance
from pipelines.store.schemas import automatic_masks_from_row
from tests.support.sams import trained_sam
from weaksam.config import EverythingConfig, SamConfig
from weaksam.errors import ConfigError, DataError
from weaksam.masks_np import decode_rle
from weaksam.sam.everything import segment_everything
from weaksam.structures import PART, WHOLE

SETTINGS = [
    "data.shapes.train=4",
    "data.shapes.val=2",
    "data.shapes.test=0",
    "data.shapes.size=64",
    "superpixels.points_per_side=6",
    "resources.cpus=1",
]
HERE = "resources.here=true"


def recipe_of(*more: str) -> Recipe:
    return load_recipe("grid", [*SETTINGS, *more], "shapes:")[0]


def bring(run: Path, *more: str) -> dict[str, Any]:
    return Run(recipe_of(*more), str(run)).bring(["superpixels"], Options())["superpixels"]


def table_of(run: Path, *more: str) -> SuperpixelTable:
    return SuperpixelTable(Run(recipe_of(*more), str(run)).instance("superpixels"))


@pytest.mark.slow
def test_images_that_labels_are_granted_to_have_the_masks_that_sam_finds_in_them(tmp_path: Path) -> None:
    manifest = bring(tmp_path, HERE)
    read = Index(Run(recipe_of(), str(tmp_path)).instance("index")).image_reader()
    images = {image.image_id: image for image in table_of(tmp_path).images()}
    assert len(images) == 4
    assert {image.split for image in images.values()} == {"train"}
    for image in images.values():
        found = segment_everything(trained_sam(), read(image.image_id), recipe_of().superpixels)
        assert image.masks.size_hw == (64, 64)
        assert image.masks.level.tolist() == found.level.tolist()
        for mine, theirs in zip(image.masks.mask_rle, found.mask_rle, strict=True):
            assert (decode_rle(mine) == decode_rle(theirs)).mean() > 0.999  # threads may round an edge otherwise
    count = sum(len(image.masks) for image in images.values())
    assert count == sum(manifest["masks"].values()) > 4
    assert list(manifest["masks"]) == ["whole", "part", "subpart"]
    assert manifest["text"].startswith("images 4 = done 4 + dropped 0 · duplicates 0 · masks: whole ")
    assert manifest["without_masks"] == sum(not len(image.masks) for image in images.values())


@pytest.mark.slow
def test_rows_stay_when_images_come_and_others_are_asked_for(tmp_path: Path) -> None:
    bring(tmp_path, HERE)
    key = table_of(tmp_path).instance.key
    assert "done 6 (4 from before)" in bring(tmp_path, HERE, "data.shapes.train=6")["text"]
    of_both = ["data.shapes.train=6", "superpixels.splits=[train,val]"]
    assert "done 8 (6 from before)" in bring(tmp_path, HERE, *of_both)["text"]
    assert {image.split for image in table_of(tmp_path, *of_both).images()} == {"train", "val"}
    assert table_of(tmp_path, *of_both).instance.key == key


def test_the_key_has_the_options_and_the_sam_and_no_labels(tmp_path: Path) -> None:
    key = table_of(tmp_path).instance.key
    for setting in ("superpixels.min_region_area=9", "superpixels.wholes_first=false", "sam.precision=tf32"):
        assert table_of(tmp_path, setting).instance.key != key
    assert table_of(tmp_path, "superpixels.splits=[val]", "data.train_split=val").instance.key == key


def test_where_labels_are_granted_to_no_split_the_images_of_all_are_meant(tmp_path: Path) -> None:
    assert "images 6 = done 6" in bring(tmp_path, HERE, "data.train_split=none")["text"]


def test_a_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"superpixels\.splits: tset not indexed"):
        table_of(tmp_path, "superpixels.splits=[tset]")


def test_a_mistake_in_the_section_is_named_as_it_stands_in_the_recipe() -> None:
    with pytest.raises(ConfigError, match=r"superpixels\.whole_iou_bonus \(from --set\): expected 0\.\.1"):
        recipe_of("superpixels.whole_iou_bonus=7")
    assert recipe_of("superpixels.fine.crop_layers=2").of("superpixels.fine").superpixels.crop_layers == 2


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_actors_on_ray_find_what_is_found_in_this_process(tmp_path: Path) -> None:
    on_ray = ["resources.segment_actors=1", "resources.threads_per_actor=1", "resources.rows_per_task=2"]
    manifest = bring(tmp_path / "ray", *on_ray)
    assert manifest["actors"] == "1 actor(s), 1 CPU thread(s) each, 2 images per task"
    bring(tmp_path / "here", HERE)
    found, expected = (
        {image.image_id: image.masks for image in table_of(tmp_path / where).images()} for where in ("ray", "here")
    )
    assert found.keys() == expected.keys()
    for image_id, masks in found.items():
        assert masks.level.tolist() == expected[image_id].level.tolist()
        np.testing.assert_array_equal(masks.point_xy, expected[image_id].point_xy)


def fetched(image_id: str, **more: Any) -> dict[str, Any]:
    image = np.full((64, 80, 3), 230, np.uint8)
    image[10:40, 10:40] = (200, 30, 30)
    file = BytesIO()
    Image.fromarray(image).save(file, "png")
    return {"image_id": image_id, "input": "i", "uri": f"/{image_id}.png", "bytes": file.getvalue(), **more}


def segmented(tmp_path: Path, rows: list[dict[str, Any]], **config: Any) -> tuple[list[dict[str, Any]], Instance]:
    instance = Instance(str(tmp_path), "superpixels", "k")
    spec = EverythingSpec(
        instance=instance, sam=SamConfig(name="builtin"), config=EverythingConfig(**config), threads=1, device="cpu"
    )
    return EverythingActor(spec)(pa.Table.from_pylist(rows, schema=FETCHED)).to_pylist(), instance


def test_a_row_describes_its_masks(tmp_path: Path) -> None:
    (row,), _ = segmented(tmp_path, [fetched("a")], points_per_side=4, min_predicted_iou=0.3, min_stability=0.5)
    assert (row["image_id"], row["input"], row["size_hw"]) == ("a", "i", [64, 80])
    masks = automatic_masks_from_row(row)
    assert len(masks)
    for n, rle in enumerate(masks.mask_rle):
        y, x = np.nonzero(decode_rle(rle))
        assert masks.boxes_xyxy[n].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert masks.area[n] == len(x)
        assert masks.crop_xyxy[n].tolist() == [0, 0, 80, 64]
    assert set(masks.level.tolist()) <= {0, PART, WHOLE}


def test_images_without_masks_have_rows_and_broken_ones_are_set_aside(tmp_path: Path) -> None:
    broken = fetched("broken", bytes=None, reason="not an image", detail="")
    (row,), instance = segmented(tmp_path, [fetched("nothing"), broken], points_per_side=2, min_predicted_iou=1.0)
    assert row["image_id"] == "nothing"
    columns = ("mask_rle", "level", "area", "boxes_xyxy", "predicted_iou", "stability", "point_xy", "crop_xyxy")
    assert [row[name] for name in columns] == [[]] * len(columns)
    assert instance.dropped.read()["image_id"].to_pylist() == ["broken"]

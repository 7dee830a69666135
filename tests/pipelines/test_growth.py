"""A data set that changes under a run: what is computed anew, stage by stage, of a folder, VOC, COCO and a bucket."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from pipelines.engine.stage import Options
from pipelines.recipe.model import Recipe, load_recipe
from pipelines.runner import Run
from pipelines.store.instances import current_instance
from tests.support.s3_server import s3_server
from weaksam.io.files import join, open_fs

STAGES = ("propose", "train-mil", "detect.mil", "label", "evaluate.mil")
TINY = [
    "stages=[index, propose, train-mil, detect.mil, label, evaluate.mil]",
    "propose.method=selective-search",
    "selective_search.resize_width=0",
    "mil.backbone=small",
    "mil.scales=[48]",
    "mil.min_box_side=2",
    "mil.steps=1",
    "mil.epochs=0",
    "mil.batch_size=2",
    "detect.splits=[]",
    "detect.scales=[48]",
    "resources.here=true",
    "resources.cpus=1",
]
Labels = dict[str, list[str]]  # image -> the classes in it
FIRST: dict[str, Labels] = {
    "train": {"a": ["cat"], "b": ["dog"], "c": ["cat", "dog"]},
    "val": {"d": ["cat"], "e": ["dog"]},
}


def picture(seed: int) -> Image.Image:
    """Some rectangles on a ground."""
    rng = np.random.default_rng(seed)
    pixels = np.full((40, 48, 3), rng.integers(0, 255, 3), np.uint8)
    for _ in range(4):
        x, y = rng.integers(0, 30, 2)
        pixels[y : y + 12, x : x + 14] = rng.integers(0, 255, 3)
    return Image.fromarray(pixels)


class Data(ABC):
    """A data set of pictures of one kind, which is written anew whenever it changes."""

    moved_is_another = False  # whether an image of another split has another id

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.splits = {split: dict(images) for split, images in FIRST.items()}
        self.seeds = {image: n for n, image in enumerate("abcde")}
        self.shift = 0  # of true boxes, in pixels
        self.uri = str(folder)
        self.write()

    @abstractmethod
    def place(self, split: str, image: str) -> Path:
        """Where a picture is."""

    @abstractmethod
    def annotate(self) -> None:
        """Write labels and true boxes."""

    def write(self) -> None:
        """Write pictures that are other ones now, remove those that are gone, and annotate."""
        places = {self.place(split, i): i for split, images in self.splits.items() for i in images}
        for old in set(self.folder.rglob("*.png")) - set(places):
            old.unlink()
        for path, image in places.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            new = picture(self.seeds[image])
            if not path.exists() or np.asarray(Image.open(path)).tobytes() != np.asarray(new).tobytes():
                new.save(path)
        self.annotate()


class Folder(Data):
    moved_is_another = True

    def place(self, split: str, image: str) -> Path:
        return self.folder / split / f"{image}.png"

    def annotate(self) -> None:
        rows = [f"{s}/{i}.png,{';'.join(labels)}" for s, images in self.splits.items() for i, labels in images.items()]
        (self.folder / "labels.csv").write_text("\n".join(["path,labels", *rows, ""]))


class Voc(Data):
    def place(self, split: str, image: str) -> Path:  # noqa: ARG002
        return self.folder / "JPEGImages" / f"{image}.png"

    def annotate(self) -> None:
        for folder in ("Annotations", "ImageSets/Main"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        for split, images in self.splits.items():
            (self.folder / f"ImageSets/Main/{split}.txt").write_text("\n".join([*images, ""]))
            for image, labels in images.items():
                root = ElementTree.Element("annotation")
                for n, name in enumerate(labels):
                    item = ElementTree.SubElement(root, "object")
                    ElementTree.SubElement(item, "name").text = name
                    box = ElementTree.SubElement(item, "bndbox")
                    for corner, value in zip(
                        ("xmin", "ymin", "xmax", "ymax"), (5 + n, 5, 25 + self.shift, 30), strict=True
                    ):
                        ElementTree.SubElement(box, corner).text = str(value)
                (self.folder / f"Annotations/{image}.xml").write_bytes(ElementTree.tostring(root))


class Coco(Data):
    def place(self, split: str, image: str) -> Path:  # noqa: ARG002
        return self.folder / "images" / f"{image}.png"

    def annotate(self) -> None:
        (self.folder / "annotations").mkdir(exist_ok=True)
        numbers, names = (
            {"cat": 1, "dog": 2, "eel": 3},
            sorted({n for s in self.splits.values() for ls in s.values() for n in ls}),
        )
        for split, images in self.splits.items():
            listed = [{"id": ord(i), "file_name": f"{i}.png", "width": 48, "height": 40} for i in images]
            boxes = [
                {
                    "id": 100 * ord(i) + n,
                    "image_id": ord(i),
                    "category_id": numbers[name],
                    "bbox": [5 + n, 5, 20 + self.shift, 25],
                }
                for i, labels in images.items()
                for n, name in enumerate(labels)
            ]
            categories = [{"id": numbers[name], "name": name} for name in names]
            content = {"images": listed, "annotations": boxes, "categories": categories}
            (self.folder / f"annotations/instances_{split}.json").write_text(json.dumps(content))


class Bucket(Folder):
    """The folder in a bucket: what is the same as there is not uploaded again, as by `aws s3 sync`."""

    bucket = ""

    def __init__(self, folder: Path) -> None:
        self._there: dict[str, bytes] = {}
        super().__init__(folder)
        self.uri = join(self.bucket, folder.parent.name)

    def write(self) -> None:
        super().write()
        fs, root = open_fs(join(self.bucket, self.folder.parent.name))
        here = {p.relative_to(self.folder).as_posix(): p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}
        for name in self._there.keys() - here.keys():
            fs.rm_file(f"{root}/{name}")
        for name, content in here.items():
            if self._there.get(name) != content:
                fs.pipe_file(f"{root}/{name}", content)
        self._there = here


KINDS: dict[str, type[Data]] = {"folder": Folder, "voc": Voc, "coco": Coco, "bucket": Bucket}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server("photos") as uri:
        yield uri


# The whole matrix takes ten minutes: one kind of data set is tried every day, the others in the long tests.
@pytest.fixture(params=["folder", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("voc", "coco", "bucket"))])
def data(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    """A data set that has been run over once; its run folder is ``run`` beside it."""
    if request.param == "bucket":
        monkeypatch.setattr(Bucket, "bucket", request.getfixturevalue("server"))
    made = KINDS[request.param](tmp_path / "data")
    assert night(made) == FIRST_NIGHT
    return made


def recipe(data: Data, train: str) -> Recipe:
    return load_recipe("small", [*TINY, f"mil.train_again={train}"], data.uri)[0]


def written(run: Path) -> dict[Path, int]:
    """When each manifest was written."""
    return {path: path.stat().st_mtime_ns for path in run.glob("*/*/_sets/*.manifest.json")}


def night(data: Data, train: str = "changed", *, again: bool = False, **options: Any) -> dict[str, int | str]:
    """Bring the run up to date; return the rows that were computed, or what became of what is no table of rows."""
    run = data.folder.parent / "run"
    before, trained = written(run), current_instance(str(run), "train-mil")
    made = Run(recipe(data, train), str(run), train_again=again).bring(STAGES, Options(**options))
    found: dict[str, int | str] = {}
    for name in STAGES:
        instance = current_instance(str(run), name)
        assert instance is not None
        path, images = Path(instance.manifest_uri), made[name].get("images")
        if name == "train-mil":
            on = made[name].get("trained_on")
            same = trained is not None and trained.key == instance.key
            found[name] = (
                f"as it is: {on['images']} of {on['of']}" if same and on else "as it is" if same else "trained"
            )
        elif name.startswith("evaluate"):
            found[name] = "as it is" if before.get(path) == written(run)[path] else "measured"
        else:
            found[name] = 0 if before.get(path) == written(run)[path] else images["done"] - images["before"]
    return found


def done(propose: int, train: str, detect: int, label: int, evaluate: str = "measured") -> dict[str, int | str]:
    return dict(zip(STAGES, (propose, train, detect, label, evaluate), strict=True))


FIRST_NIGHT = done(5, "trained", 5, 3)
AS_BEFORE = done(0, "as it is", 0, 0, "as it is")


def add(data: Data) -> None:
    data.splits["train"]["f"] = ["dog"]
    data.seeds["f"] = 7


def add_to_val(data: Data) -> None:
    data.splits["val"]["f"] = ["dog"]
    data.seeds["f"] = 7


def remove(data: Data) -> None:
    del data.splits["train"]["b"]


def replace(data: Data) -> None:
    data.seeds["b"] = 9


def relabel(data: Data) -> None:
    data.splits["train"]["b"] = ["cat"]


def move(data: Data) -> None:
    data.splits["val"]["c"] = data.splits["train"].pop("c")


# What changes -> what a night then computes with `train_again: changed`, and with `asked`. A detector that was trained again
# finds other things in every image, and its detections become other pseudo labels.
NIGHTS: dict[Callable[[Data], None], tuple[dict[str, int | str], dict[str, int | str]]] = {
    add: (done(1, "trained", 6, 4), done(1, "as it is: 3 of 4", 1, 1)),
    add_to_val: (done(1, "as it is", 1, 0), done(1, "as it is", 1, 0)),
    remove: (done(0, "trained", 4, 2), done(0, "as it is: 2 of 2", 0, 0)),
    replace: (done(1, "trained", 5, 3), done(1, "as it is: 2 of 3", 1, 1)),
    relabel: (done(0, "trained", 5, 3), done(0, "as it is: 2 of 3", 0, 1)),
    move: (done(0, "trained", 5, 2), done(0, "as it is: 2 of 2", 0, 0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", NIGHTS, ids=lambda change: change.__name__)
def test_only_what_has_changed_is_computed(data: Data, change: Callable[[Data], None]) -> None:
    change(data)
    data.write()
    again, as_it_is = NIGHTS[change]
    if change is move and data.moved_is_another:  # in a folder of each split: another id is another image
        as_it_is = {**as_it_is, "propose": 1, "detect.mil": 1}
    assert night(data, "asked") == as_it_is
    assert night(data, "asked") == AS_BEFORE | {"train-mil": as_it_is["train-mil"]}
    trained = {**again, "propose": 0}
    assert night(data) == (trained if trained["train-mil"] == "trained" else AS_BEFORE)
    assert night(data) == AS_BEFORE


@pytest.mark.slow
def test_asked_to_the_training_is_done_again(data: Data) -> None:
    add(data)
    data.write()
    assert night(data, "asked", again=True) == NIGHTS[add][0]
    assert night(data, "asked") == AS_BEFORE


@pytest.mark.slow
@pytest.mark.parametrize("data", ["voc", "coco"], indirect=True)
def test_corrected_boxes_are_measured_again_and_nothing_else(data: Data) -> None:
    data.shift = 3
    data.write()
    assert night(data) == AS_BEFORE | {"evaluate.mil": "measured"}


@pytest.mark.slow
@pytest.mark.parametrize("data", ["folder"], indirect=True)
def test_a_new_class_makes_what_knows_the_classes_anew(data: Data) -> None:
    data.splits["train"]["b"] = ["eel"]
    data.write()
    assert night(data) == done(0, "trained", 5, 3)


@pytest.mark.slow
@pytest.mark.parametrize("retry", [False, True], ids=["", "--retry-dropped"])
@pytest.mark.parametrize("data", ["voc"], indirect=True)
def test_a_dropped_picture_that_was_mended_is_done(data: Data, retry: bool) -> None:
    add(data)
    data.write()
    broken = data.place("train", "f")
    whole = broken.read_bytes()
    broken.write_bytes(whole[:60])
    assert night(data, "asked", max_dropped="1") == done(0, "as it is: 3 of 4", 0, 0)
    broken.write_bytes(whole)
    assert night(data, "asked", retry_dropped=retry) == done(1, "as it is: 3 of 4", 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("data", ["voc"], indirect=True)
def test_what_was_dropped_for_another_reason_waits_to_be_retried(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    add(data)
    data.write()
    with monkeypatch.context() as patch:
        patch.setattr("weaksam.proposals.selective_search.selective_search", lambda *_: 1 / 0)
        assert night(data, "asked", max_dropped="1") == done(0, "as it is: 3 of 4", 0, 0)
    assert night(data, "asked", max_dropped="1") == AS_BEFORE | {"train-mil": "as it is: 3 of 4"}
    assert night(data, "asked", retry_dropped=True) == done(1, "as it is: 3 of 4", 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("data", ["folder"], indirect=True)
def test_data_sets_previews_and_trials_in_one_folder_share_rows_and_prove_their_own(data: Data) -> None:
    run = data.folder.parent / "run"

    def proofs(more: Data, *settings: str, preview: str = "") -> dict[str, Any]:
        asked = load_recipe("small", [*TINY, "mil.train_again=asked", *settings], more.uri)[0]
        made = Run(asked, str(run / preview)).bring(STAGES, Options())
        return {name: made[name]["images"] for name in ("propose", "detect.mil", "label")}

    def proof(images: int, before: int) -> dict[str, int]:
        return {"images": images, "done": images, "dropped": 0, "before": before, "duplicates": 0}

    other = Folder(data.folder.parent / "other")
    add(other)
    other.write()
    assert proofs(other) == {"propose": proof(6, 5), "detect.mil": proof(6, 5), "label": proof(4, 3)}
    assert proofs(data, "data.limit=1", preview="preview-1") == {
        "propose": proof(2, 2), "detect.mil": proof(2, 2), "label": proof(1, 1),
    }  # fmt: skip
    for tau_s in (0.1, 0.2, 0.4):
        trial = proofs(data, f"pseudo_labels.tau_s={tau_s}")
        assert trial == {"propose": proof(5, 0), "detect.mil": proof(5, 0), "label": proof(3, 0)}
    assert night(data) == AS_BEFORE
    assert len([path for path in (run / "propose").iterdir() if path.is_dir()]) == 1  # one folder for all of them

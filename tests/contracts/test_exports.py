"""What is exported is found and read by each target's own rule, on a COCO data set with folders and equal file names."""

import json
import pickle
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO
from typer.testing import CliRunner

from pipelines.cli import app as cli
from pipelines.engine.stage import Options
from pipelines.exchange import EXPORTS
from pipelines.exchange.export import run_export
from pipelines.exchange.pictures import PictureMode
from pipelines.exchange.true_boxes import run_export_true_boxes
from pipelines.recipe.model import load_recipe
from pipelines.runner import Run
from pipelines.store.files import write_bytes
from tests.pipelines.exchange.test_export_detections import write_detections
from tests.support.handmade import write_proposals
from tests.support.label_maps import add_painting, write_maps
from weaksam.errors import ConfigError, DataError
from weaksam.io.images import decode_numbers

# Picture -> (its id, size as width and height, boxes as XYWH). Equal stems in two folders; ids that no stem shows.
PICTURES = {
    "cam1/0001.jpg": (139, (40, 30), [[2, 3, 10, 20]]),
    "cam2/0001.jpg": (7, (60, 20), [[0, 0, 60, 20], [5, 5, 1, 1]]),
    "cam2/a b.png": (25, (30, 30), [[10, 10, 20, 20]]),
}
CATEGORY_IDS = (3, 8)  # "cat", "a & b"; box n of a picture is of class n


def build_coco(root: Path, pictures=PICTURES, folder="images", split="train") -> Path:
    images, annotations = [], []
    for name, (image_id, (width, height), boxes) in pictures.items():
        path = root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height)).save(path)
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        annotations += [
            {"id": len(annotations) + n, "image_id": image_id, "category_id": CATEGORY_IDS[n], "bbox": box, "iscrowd": 0,
             "area": box[2] * box[3]}
            for n, box in enumerate(boxes)
        ]  # fmt: skip
    categories = [{"id": i, "name": name} for i, name in zip(CATEGORY_IDS, ("cat", "a & b"), strict=True)]
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return root


def index(data: Path, run: Path) -> str:
    """Index a data set, and make its true boxes the pseudo labels ``true-boxes.truth``; there is no recipe.yaml."""
    recipe, _ = load_recipe("grid", [], str(data))
    Run(recipe, str(run)).bring(["index"], Options())
    run_export_true_boxes(str(run), name="truth")
    return str(run)


@pytest.fixture(autouse=True)
def painting(monkeypatch):
    add_painting(monkeypatch)


@pytest.fixture
def run(tmp_path):
    return index(build_coco(tmp_path / "data"), tmp_path / "run")


def export(run, to, out, **options):
    return run_export(run, to=to, split="train", out=str(out), instance="true-boxes.truth", **options)


def read_yolo(data_yaml: Path) -> dict[str, list[tuple[str, list[float]]]]:
    """Read as Ultralytics' loader does: picture -> (class name, XYWH in pixels)."""
    config = yaml.safe_load(data_yaml.read_text())
    found = {}
    for key in ("train", "val"):
        listed = Path(config["path"]) / config[key]
        for line in listed.read_text().strip().splitlines():
            picture = line.replace("./", f"{listed.parent}/") if line.startswith("./") else line
            with Image.open(picture) as image:
                width, height = image.size
            label = "/labels/".join(picture.rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt"
            rows = [row.split() for row in Path(label).read_text().splitlines()]
            found[picture.rpartition("/images/")[2]] = [
                (config["names"][int(c)], xywh(*map(float, shares), width, height)) for c, *shares in rows
            ]
    return found


def xywh(x, y, w, h, width, height):
    return [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]


def read_voc(root: Path, split: str) -> dict[str, list[tuple[str, list[int]]]]:
    """Read as VOC's devkit does: stem -> (class name, XYWH in pixels)."""
    found = {}
    for stem in (root / "ImageSets" / "Main" / f"{split}.txt").read_text().split():
        tree = ElementTree.parse(root / "Annotations" / f"{stem}.xml")
        file_name = tree.findtext("filename")
        assert Path(file_name).stem == stem
        with Image.open(root / "JPEGImages" / file_name) as image:
            assert image.size == (int(tree.findtext("size/width")), int(tree.findtext("size/height")))
        found[stem] = []
        for item in tree.iter("object"):
            x1, y1, x2, y2 = (int(item.findtext(f"bndbox/{c}")) for c in ("xmin", "ymin", "xmax", "ymax"))
            found[stem].append((item.findtext("name"), [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]))
    return found


def truth(name_of=lambda name: name):
    return {name_of(name): list(zip(("cat", "a & b"), boxes, strict=False)) for name, (_, _, boxes) in PICTURES.items()}


def of_every_product(run):
    """Let a run hold each product, and return the instance of each."""
    write_detections(run, {"139": [([2, 3, 12, 23], 1, 0.5)], "7": [], "25": []}, ("cat", "a & b"), masked=True)
    write_proposals(run, {"139": [[2, 3, 12, 23]], "7": [], "25": [[0, 0, 9, 9]]})
    maps = {str(image_id): np.zeros((height, width), np.uint8) for image_id, (width, height), _ in PICTURES.values()}
    maps["139"][2:, 3:], maps["7"][0, 0] = 2, 1
    write_maps(run, "paint", maps.items(), ("cat", "a & b"))
    instances = {"proposals": "propose", "detections": "detect.mil", "pseudo-labels": "true-boxes.truth"}
    return {**instances, "label-maps": "paint"}


def files_of(path):
    paths = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {str(p.relative_to(path)): p.read_bytes() for p in paths}


@pytest.mark.parametrize("name", EXPORTS)
def test_every_format_is_written_whole_and_the_same_again(run, tmp_path, name):
    product, to = name.split(".")
    options = {"to": to, "split": "train", "instance": of_every_product(run)[product]}
    done = run_export(run, out=str(tmp_path / "out"), **options)
    assert set(done) == {"images", "boxes", "empty", "missing", "text"}
    assert done["text"].startswith(f"{tmp_path / 'out'}: {to} · images 3")
    written = files_of(tmp_path / "out")
    assert any(written.values())
    with pytest.raises(DataError, match="--overwrite replaces"):
        run_export(run, out=str(tmp_path / "out"), **options)
    assert files_of(tmp_path / "out") == written
    assert "replaced" in run_export(run, out=str(tmp_path / "out"), overwrite=True, **options)["text"]
    assert files_of(tmp_path / "out") == written


@pytest.mark.parametrize("name", EXPORTS)
def test_every_format_takes_the_options_that_it_declares_and_no_others(run, tmp_path, name):
    product, to = name.split(".")
    (tmp_path / "ids").write_text("139\n7\n25\n")
    instance, takes = of_every_product(run)[product], EXPORTS[name].takes
    for option, value in {"only": str(tmp_path / "ids"), "pictures": PictureMode.NONE}.items():
        out = str(tmp_path / option)
        if option in takes:
            run_export(run, to=to, split="train", out=out, instance=instance, **{option: value})
        else:
            with pytest.raises(ConfigError, match=rf"--as {to} of {product} takes --of.*, not --{option}"):
                run_export(run, to=to, split="train", out=out, instance=instance, **{option: value})


def test_the_help_lists_every_format(run):
    shown = CliRunner(env={"COLUMNS": "400"}).invoke(cli.app, ["export", "--help"]).output
    for product in ("proposals", "detections", "pseudo-labels", "label-maps"):
        assert f"{product}: {', '.join(n.split('.')[1] for n in EXPORTS if n.startswith(f'{product}.'))}" in shown


def test_the_help_says_which_formats_take_an_option(run):
    shown = " ".join(CliRunner(env={"COLUMNS": "400"}).invoke(cli.app, ["export", "--help"]).output.split())
    takes = {
        option: {
            of: [n.split(".")[1] for n in EXPORTS if n.startswith(f"{of}.") and option in EXPORTS[n].takes]
            for of in ofs
        }
        for option, ofs in {"pictures": ["pseudo-labels"], "only": ["detections", "label-maps"]}.items()
    }
    *first, last = takes["pictures"]["pseudo-labels"]
    assert f"of pseudo labels as {', '.join(first)} or {last}; default link" in shown
    assert takes["only"] == {
        "detections": [n.split(".")[1] for n in EXPORTS if n.startswith("detections.")],
        "label-maps": ["coco"],
    }
    assert "Detections, or label maps as coco, of these images alone" in shown


def test_an_instance_that_holds_none_of_them_is_refused(run, tmp_path):
    ours = [
        "import", "import-masks", "true-boxes", "true-masks", "propose", "detect", "label", "segment", "seeds", "predict-maps",
    ]  # fmt: skip
    others = ["paint", "paint-seeds"]
    with pytest.raises(ConfigError, match=f"--of: expected an instance of {' or '.join(ours + others)}, got index"):
        run_export(run, to="coco", split="train", out=str(tmp_path / "f"), instance="index")
    shown = CliRunner(env={"COLUMNS": "400"}).invoke(cli.app, ["export", "--help"]).output
    assert f"an instance of {', '.join(ours)}; default propose" in " ".join(shown.split())


def test_yolo_finds_every_label_by_its_picture(run, tmp_path):
    done = export(run, "yolo", tmp_path / "out")
    found = read_yolo(tmp_path / "out" / "data.yaml")
    assert {name: [c for c, _ in rows] for name, rows in found.items()} == {
        name: [c for c, _ in rows] for name, rows in truth().items()
    }
    for name, rows in truth().items():
        np.testing.assert_allclose([b for _, b in found[name]], [b for _, b in rows], atol=60 * 1e-6)  # six decimals
    assert "pictures linked 3" in done["text"]
    assert f"next: yolo detect train data={tmp_path / 'out' / 'data.yaml'}" in done["text"]


def test_voc_finds_every_annotation_by_its_stem(run, tmp_path):
    export(run, "voc", tmp_path / "out")
    stems = {"cam1/0001.jpg": "cam1%2F0001", "cam2/0001.jpg": "cam2%2F0001", "cam2/a b.png": "cam2%2Fa%20b"}
    assert read_voc(tmp_path / "out", "train") == truth(stems.__getitem__)


def test_coco_opens_every_file_name_under_one_root(run, tmp_path):
    done = export(run, "coco", tmp_path / "out.json")
    held = COCO(str(tmp_path / "out.json"))
    root = Path(done["text"].partition("hand it to a trainer with ")[2].partition(" as its pictures")[0])
    for image in held.loadImgs(held.getImgIds()):
        image_id, size, boxes = PICTURES[image["file_name"]]
        with Image.open(root / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == size
        annotations = held.loadAnns(held.getAnnIds(image["id"]))
        assert (image["id"], [a["bbox"] for a in annotations]) == (image_id, boxes)
        assert [a["category_id"] for a in annotations] == list(CATEGORY_IDS[: len(boxes)])


@pytest.mark.parametrize("file_name", ["000000000139.jpg", "cam1/0001.jpg"], ids=["flat", "one folder"])
@pytest.mark.parametrize("folder", ["images", "train", "images/train", "train/images"])
def test_usual_folders_are_no_part_of_a_name_and_others_are(tmp_path, folder, file_name):
    picture = {file_name: (139, (40, 30), [[2, 3, 10, 20]])}
    run = index(build_coco(tmp_path / "data", picture, folder), tmp_path / "run")
    export(run, "yolo", tmp_path / "yolo")
    export(run, "coco", tmp_path / "f.json")
    assert list(read_yolo(tmp_path / "yolo" / "data.yaml")) == [file_name]
    assert (tmp_path / "yolo" / "labels" / file_name).with_suffix(".txt").exists()
    assert [i["file_name"] for i in json.loads((tmp_path / "f.json").read_text())["images"]] == [file_name]


def test_detections_are_called_as_their_targets_call_them(run, tmp_path):
    found = {"139": [([2, 3, 12, 23], 1, 0.5)], "7": [], "25": [([0, 0, 9, 9], 0, 0.25)]}
    write_detections(run, found, ("cat", "a & b"))
    options = {"split": "train", "instance": "detect.mil"}
    run_export(run, to="coco", out=str(tmp_path / "r.json"), **options)
    held = COCO(str(tmp_path / "data" / "annotations" / "instances_train.json")).loadRes(str(tmp_path / "r.json"))
    assert {(a["image_id"], a["category_id"], *a["bbox"]) for a in held.dataset["annotations"]} == {
        (139, 8, 2, 3, 10, 20), (25, 3, 0, 0, 9, 9),
    }  # fmt: skip
    run_export(run, to="voc", out=str(tmp_path / "server"), **options)
    export(run, "voc", tmp_path / "out")
    stems = set((tmp_path / "out" / "ImageSets" / "Main" / "train.txt").read_text().split())
    lines = (tmp_path / "server" / "comp3_det_train_cat.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["cam2%2Fa%20b"]
    assert stems.issuperset(line.split()[0] for line in lines)
    assert all(len(line.split()) == 6 for line in lines)


def test_proposals_stand_in_the_order_or_under_the_ids_of_their_targets(run, tmp_path):
    write_proposals(run, {"139": [[2, 3, 12, 23]], "7": [], "25": [[0, 0, 9, 9]]})
    for to in ("wetectron", "mmdet", "coco"):
        run_export(run, to=to, split="train", out=str(tmp_path / to))
    boxes = [[], [[0, 0, 8, 8]], [[2, 3, 11, 22]]]  # of 7, 25 and 139: ascending
    held = pickle.loads((tmp_path / "wetectron").read_bytes())
    assert (held["indexes"], [b.tolist() for b in held["boxes"]]) == ([7, 25, 139], boxes)
    assert [b.tolist() for b in pickle.loads((tmp_path / "mmdet").read_bytes())] == boxes
    rows = json.loads((tmp_path / "coco").read_text())
    assert [(row["image_id"], row["bbox"]) for row in rows] == [(25, [0, 0, 9, 9]), (139, [2, 3, 10, 20])]


def test_label_maps_are_called_as_their_targets_call_them(run, tmp_path):
    options = {"split": "train", "instance": of_every_product(run)["label-maps"]}
    run_export(run, to="coco", out=str(tmp_path / "r.json"), **options)
    held = COCO(str(tmp_path / "data" / "annotations" / "instances_train.json")).loadRes(str(tmp_path / "r.json"))
    assert [(a["image_id"], a["category_id"], a["area"]) for a in held.loadAnns(held.getAnnIds())] == [
        (139, 8, 28 * 37), (7, 3, 1),
    ]  # fmt: skip
    run_export(run, to="voc", out=str(tmp_path / "voc"), **options)
    stems = (tmp_path / "voc/ImageSets/Segmentation/train.txt").read_text().split()
    assert stems == ["cam2%2F0001", "cam2%2Fa%20b", "cam1%2F0001"]  # of 7, 25 and 139: ascending
    pngs = [(tmp_path / "voc" / "SegmentationClass" / f"{stem}.png").read_bytes() for stem in stems]
    assert [decode_numbers(png).shape for png in pngs] == [(20, 60), (30, 30), (30, 40)]
    run_export(run, to="cityscapes", out=str(tmp_path / "city"), **options)
    found = sorted(str(path.relative_to(tmp_path / "city/train")) for path in (tmp_path / "city/train").rglob("*.*"))
    assert found == ["cam1/0001_labelIds.png", "cam2/0001_labelIds.png", "cam2/a b_labelIds.png", "classes.txt"]


@pytest.mark.parametrize("to", ["voc", "cityscapes"])
def test_maps_of_pictures_that_only_their_suffixes_tell_apart_are_refused_by_name(tmp_path, to):
    pictures = {"cam1/1.jpg": (1, (9, 9), [[0, 0, 5, 5]]), "cam1/1.png": (2, (9, 9), [[0, 0, 5, 5]])}
    run = index(build_coco(tmp_path / "data", pictures), tmp_path / "run")
    write_maps(run, "paint", [(i, np.zeros((9, 9), np.uint8)) for i in "12"], ("cat", "a & b"))
    with pytest.raises(DataError, match=r"'cam1/1\.jpg' and 'cam1/1\.png' would share one file"):
        run_export(run, to=to, split="train", out=str(tmp_path / "out"), instance="paint")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["yolo", "voc"])
def test_pictures_that_only_their_suffixes_tell_apart_are_refused_by_name(tmp_path, to):
    pictures = {"cam1/1.jpg": (1, (9, 9), [[0, 0, 5, 5]]), "cam1/1.png": (2, (9, 9), [[0, 0, 5, 5]])}
    run = index(build_coco(tmp_path / "data", pictures), tmp_path / "run")
    with pytest.raises(DataError, match=r"'cam1/1\.jpg' and 'cam1/1\.png' would share one file"):
        export(run, to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a\nb.jpg", "a./b.jpg"], ids=["line break", "dot before a slash"])
def test_names_that_no_list_of_pictures_holds_are_refused(tmp_path, name):
    run = index(build_coco(tmp_path / "data", {name: (1, (9, 9), [[0, 0, 5, 5]])}), tmp_path / "run")
    with pytest.raises(DataError, match="expected a name that a list of pictures holds"):
        export(run, "yolo", tmp_path / "out")


@pytest.mark.parametrize("to", ["yolo", "voc", "coco"])
def test_an_earlier_export_is_refused_or_replaced_whole(tmp_path, to):
    run = index(build_coco(tmp_path / "data"), tmp_path / "run")
    out = tmp_path / "out" / "f.json" if to == "coco" else tmp_path / "out"
    export(run, to, out)
    fewer = {"cam1/0001.jpg": PICTURES["cam1/0001.jpg"], "cam3/9.jpg": (9, (9, 9), [[0, 0, 5, 5]])}
    other = index(build_coco(tmp_path / "other", fewer), tmp_path / "run2")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="--overwrite replaces"):
        export(other, to, out)
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    done = export(other, to, out, overwrite=True)
    assert "replaced" in done["text"]
    export(other, to, tmp_path / "fresh" / out.name if to == "coco" else tmp_path / "fresh")
    left, fresh = (
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        for folder in (tmp_path / "out", tmp_path / "fresh")
    )
    assert left == fresh


@pytest.mark.parametrize(
    ("to", "file"),
    [("yolo", "labels/cam2/0001.txt"), ("yolo", "data.yaml"), ("voc", "Annotations/cam2%2F0001.xml"),
     ("voc", "JPEGImages/cam1%2F0001.jpg")],
)  # fmt: skip
def test_files_that_no_export_wrote_are_never_replaced(run, tmp_path, to, file):
    path = tmp_path / "out" / file
    path.parent.mkdir(parents=True)
    path.write_text("by hand")
    for overwrite in (False, True):
        with pytest.raises(DataError, match=r"1 of the files to write are there and not of an earlier export"):
            export(run, to, tmp_path / "out", overwrite=overwrite)
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [path]
    assert path.read_text() == "by hand"


def test_files_that_were_changed_since_are_never_replaced(run, tmp_path):
    export(run, "yolo", tmp_path / "out")
    labels = tmp_path / "out" / "labels" / "cam2" / "0001.txt"
    before = labels.read_text()
    labels.write_text("by hand")
    for overwrite in (False, True):
        with pytest.raises(DataError, match=r"1 of the files of an earlier export .* were changed since"):
            export(run, "yolo", tmp_path / "out", overwrite=overwrite)
    assert labels.read_text() == "by hand"
    labels.write_text(before)  # taken back
    assert "replaced" in export(run, "yolo", tmp_path / "out", overwrite=True)["text"]


def test_pictures_that_were_put_in_the_place_of_links_are_never_replaced(run, tmp_path):
    export(run, "yolo", tmp_path / "out")
    (picture,) = (tmp_path / "out" / "images").rglob("cam2/0001.jpg")
    picture.unlink()
    picture.write_bytes(b"edited")
    with pytest.raises(DataError, match=r"1 of the files of an earlier export .* were changed since"):
        export(run, "yolo", tmp_path / "out", overwrite=True)
    assert picture.read_bytes() == b"edited"


def test_an_export_that_was_stopped_is_replaced_but_for_what_was_changed_of_it(run, tmp_path, monkeypatch):
    written = []

    def write_one(path, data):
        if written:
            raise KeyboardInterrupt
        write_bytes(path, data)
        written.append(Path(path))

    with monkeypatch.context() as patched:
        patched.setattr("pipelines.exchange.voc.write_bytes", write_one)
        with pytest.raises(KeyboardInterrupt):
            export(run, "voc", tmp_path / "out")
    (first,) = written
    before = first.read_bytes()
    first.write_text("by hand")
    with pytest.raises(DataError, match="were changed since"):
        export(run, "voc", tmp_path / "out", overwrite=True)
    first.write_bytes(before)
    assert "replaced" in export(run, "voc", tmp_path / "out", overwrite=True)["text"]


def test_a_record_of_an_earlier_version_is_read_and_another_is_refused(run, tmp_path):
    export(run, "yolo", tmp_path / "out")
    (record,) = (tmp_path / "out").glob("weaksam-export-*.json")
    said = json.loads(record.read_text())
    record.write_text(json.dumps({**said, "files": list(said["files"])}))
    assert "replaced" in export(run, "yolo", tmp_path / "out", overwrite=True)["text"]
    for wrong in ([["a"]], {"a": 1}, "a"):
        record.write_text(json.dumps({**said, "files": wrong}))
        with pytest.raises(DataError, match="expected the record of an earlier export"):
            export(run, "yolo", tmp_path / "out", overwrite=True)


def test_two_splits_share_a_folder_of_voc(run, tmp_path):
    pictures = {"cam9/0001.jpg": (1, (9, 9), [[0, 0, 5, 5]])}
    other = index(build_coco(tmp_path / "other", pictures, split="trainval"), tmp_path / "run2")
    export(run, "voc", tmp_path / "out")
    run_export(other, to="voc", split="trainval", out=str(tmp_path / "out"), instance="true-boxes.truth")
    assert len(read_voc(tmp_path / "out", "train")) == 3
    assert list(read_voc(tmp_path / "out", "trainval")) == ["cam9%2F0001"]


def test_labels_can_go_beside_the_pictures_of_the_data_set(run, tmp_path):
    done = export(run, "yolo", tmp_path / "data")
    assert "pictures linked 0, in place already 3" in done["text"]
    assert set(read_yolo(tmp_path / "data" / "data.yaml")) == set(PICTURES)
    assert not any(path.is_symlink() for path in (tmp_path / "data").rglob("*"))


def test_pictures_are_copied_or_left_alone_when_asked(run, tmp_path):
    assert "pictures copied 3" in export(run, "yolo", tmp_path / "a", pictures=PictureMode.COPY)["text"]
    assert not any(path.is_symlink() for path in (tmp_path / "a").rglob("*"))
    assert set(read_yolo(tmp_path / "a" / "data.yaml")) == set(PICTURES)
    done = export(run, "yolo", tmp_path / "b", pictures=PictureMode.NONE)
    assert "pictures not written\nnext: put the pictures under" in done["text"]
    assert not (tmp_path / "b" / "images").exists()


def test_drawn_pictures_are_written_when_copied(tmp_path):
    recipe, _ = load_recipe("shapes", ["data.shapes.train=2", "data.shapes.val=1", "data.shapes.test=1"], "")
    run = str(tmp_path / "run")
    Run(recipe, run).bring(["index"], Options())
    run_export_true_boxes(run, name="truth")
    assert "--pictures copy" in export(run, "yolo", tmp_path / "a")["text"]
    export(run, "yolo", tmp_path / "b", pictures=PictureMode.COPY)
    assert len(read_yolo(tmp_path / "b" / "data.yaml")) == 2


def test_the_command_replaces_an_export_when_told_to(run, tmp_path):
    def command(*arguments):
        options = ["--of", "true-boxes.truth", "--as", "yolo", "--split", "train", "--out", str(tmp_path / "out")]
        return CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["export", run, *options, *arguments])

    assert command("--pictures", "copy").exit_code == 0
    assert "--overwrite replaces them" in str(command().exception)
    assert "replaced 9 files of an earlier export" in command("--overwrite").output
    refused = command("--pictures", "move")
    assert refused.exit_code == 2
    assert "'move' is not one of 'link', 'copy', 'none'" in refused.output


def test_ids_that_repeat_across_splits_go_out_as_each_file_has_them(tmp_path):
    for split in ("train", "valid"):
        pictures = {"a.jpg": (0, (40, 30), [[2, 3, 10, 20]]), "b.jpg": (12, (40, 30), [[0, 0, 9, 9]])}
        build_coco(tmp_path / "data", pictures, split, split)
    (tmp_path / "data" / "annotations" / "instances_train.json").rename(tmp_path / "data/train/_annotations.coco.json")
    (tmp_path / "data" / "annotations" / "instances_valid.json").rename(tmp_path / "data/valid/_annotations.coco.json")
    (tmp_path / "data" / "annotations").rmdir()
    run = index(tmp_path / "data", tmp_path / "run")
    export(run, "coco", tmp_path / "f.json")
    assert [(i["id"], i["file_name"]) for i in json.loads((tmp_path / "f.json").read_text())["images"]] == [
        (0, "a.jpg"), (12, "b.jpg"),
    ]  # fmt: skip
    export(run, "yolo", tmp_path / "yolo")
    assert set(read_yolo(tmp_path / "yolo" / "data.yaml")) == {"a.jpg", "b.jpg"}
    write_detections(run, {"valid/0": [([2, 3, 12, 23], 1, 0.5)], "valid/12": []}, ("cat", "a & b"))
    run_export(run, to="coco", split="valid", out=str(tmp_path / "r.json"), instance="detect.mil")
    held = COCO(str(tmp_path / "data/valid/_annotations.coco.json")).loadRes(str(tmp_path / "r.json"))
    assert [(a["image_id"], a["category_id"]) for a in held.dataset["annotations"]] == [(0, 8)]


@pytest.mark.parametrize(("stems", "ids"), [(("a", "b"), [1, 2]), (("007", "8"), [7, 8]), (("01", "1"), [1, 2])])
def test_voc_goes_out_as_coco_whatever_its_pictures_are_called(tmp_path, stems, ids):
    box = "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>12</xmax><ymax>23</ymax></bndbox>"
    (tmp_path / "data").mkdir()
    for stem in stems:
        Image.new("RGB", (40, 30)).save(tmp_path / "data" / f"{stem}.jpg")
        xml = f"<annotation><object><name>cat</name>{box}</object></annotation>"
        (tmp_path / "data" / f"{stem}.xml").write_text(xml)
    run = index(tmp_path / "data", tmp_path / "run")
    out = tmp_path / "instances.json"
    run_export(run, to="coco", split="all", out=str(out), instance="true-boxes.truth")
    content = json.loads(out.read_text())
    assert [(i["id"], i["file_name"]) for i in content["images"]] == [
        (n, f"{stem}.jpg") for n, stem in zip(ids, stems, strict=True)
    ]
    assert [(a["image_id"], a["bbox"]) for a in content["annotations"]] == [(n, [2, 3, 10, 20]) for n in ids]
    write_proposals(run, {stem: [[0, 0, 9, 9]] for stem in stems})
    run_export(run, to="coco", split="all", out=str(tmp_path / "results.json"))
    held = [entry["image_id"] for entry in json.loads((tmp_path / "results.json").read_text())]
    assert held == (ids if stems == ("007", "8") else list(stems))

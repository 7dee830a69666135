from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.support.s3_server import s3_server
from tests.support.trees import build_coco_tree, build_folder_tree, build_voc_tree
from weaksam.config import DataConfig, ShapesConfig
from weaksam.datasets import DATASETS, Dataset, check_true_boxes, detect_kind, open_dataset, train_split
from weaksam.datasets.ground_truth import BoxCounts, digest_of
from weaksam.errors import ConfigError, DataError
from weaksam.io.contents import contents_of
from weaksam.io.files import join, open_fs, read_bytes
from weaksam.io.images import decode_image

TREES: dict[str, Callable[[Path], Path]] = {"voc": build_voc_tree, "coco": build_coco_tree, "folder": build_folder_tree}
SHAPES = ShapesConfig(size=64, train=4, val=2, test=3)


def test_every_kind_is_under_contract() -> None:
    assert set(DATASETS) == {*TREES, "shapes"}


@pytest.fixture(params=DATASETS)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> DataConfig:
    if request.param == "shapes":
        return DataConfig(uri="shapes:", shapes=SHAPES)
    return DataConfig(uri=str(TREES[request.param](tmp_path / request.param)))


@pytest.fixture
def dataset(config: DataConfig) -> Dataset:
    return open_dataset(config)


def test_layout_tells_the_kind(config: DataConfig, dataset: Dataset) -> None:
    assert dataset.kind == detect_kind(config.uri)
    assert DATASETS[dataset.kind](config).splits == dataset.splits


def test_ids_are_unique_over_all_splits(dataset: Dataset) -> None:
    ids = [record.image_id for split in dataset.splits for record in dataset.records(split)]
    assert len(ids) == len(set(ids)) > 0


def test_records_are_of_their_split_and_the_same_each_time(config: DataConfig, dataset: Dataset) -> None:
    for split in dataset.splits:
        records = dataset.records(split)
        assert {record.split for record in records} == {split}
        assert records == open_dataset(config).records(split)


def test_pictures_alone_are_the_same_and_nothing_is_known_of_them(config: DataConfig, dataset: Dataset) -> None:
    pictures = open_dataset(dataclasses.replace(config, pictures_only=True))
    assert (pictures.kind, pictures.splits, pictures.class_names) == (dataset.kind, dataset.splits, ())
    assert train_split(pictures, dataclasses.replace(config, pictures_only=True)) == "none"
    assert pictures.fingerprint() != dataset.fingerprint()
    for split in dataset.splits:
        unlabelled = [
            dataclasses.replace(record, labels=None, labels_difficult=None) for record in dataset.records(split)
        ]
        assert pictures.records(split) == unlabelled
        assert pictures.ground_truth(split) == {}
    assert pictures.passed_over == dataset.passed_over


def test_every_image_can_be_read(dataset: Dataset) -> None:
    for split in dataset.splits:
        for record in dataset.records(split):
            assert decode_image(read_bytes(record.uri)).shape == (64, 64, 3)


def test_labels_are_sorted_known_classes_and_part_of_those_with_difficult_ones(dataset: Dataset) -> None:
    labelled = [record for split in dataset.splits for record in dataset.records(split) if record.labels is not None]
    assert labelled
    for record in labelled:
        assert record.labels_difficult is not None
        assert set(record.labels or ()) <= set(record.labels_difficult) <= set(range(len(dataset.class_names)))
        for labels in (record.labels or (), record.labels_difficult):
            assert all(a < b for a, b in pairwise(labels))


def test_true_boxes_lie_inside_their_images_and_explain_the_labels(dataset: Dataset) -> None:
    for split in dataset.splits:
        truth = dataset.ground_truth(split)
        records = {record.image_id: record for record in dataset.records(split)}
        assert set(truth) <= set(records)
        for image_id, objects in truth.items():
            boxes = objects.boxes_xyxy
            assert boxes.dtype == np.float32
            assert boxes.shape == (len(objects.class_index), 4)
            assert len(objects.difficult) == len(objects.crowd) == len(boxes)
            assert (boxes[:, :2] >= 0).all()
            assert (boxes[:, 2:] <= 64).all()
            assert (boxes[:, :2] < boxes[:, 2:]).all()
            assert records[image_id].labels_difficult == tuple(sorted(set(objects.class_index.tolist())))
            easy = objects.class_index[~(objects.difficult | objects.crowd)]
            assert records[image_id].labels == tuple(sorted(set(easy.tolist())))


def test_fingerprint_is_the_same_for_the_same_data(config: DataConfig, dataset: Dataset) -> None:
    assert dataset.fingerprint() == open_dataset(config).fingerprint()


def replace(path: Path, data: bytes) -> None:
    """Write a file anew, a second later than before."""
    before = path.stat().st_mtime_ns
    path.write_bytes(data)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def test_a_picture_replaced_by_one_of_the_same_size_makes_other_data(config: DataConfig, dataset: Dataset) -> None:
    if dataset.kind == "shapes":
        return
    before = dataset.fingerprint()
    path = Path(dataset.records(dataset.splits[-1])[-1].uri)
    (_, content), *_ = contents_of([str(path)])
    data = path.read_bytes()
    replace(path, bytes(len(data)))
    (_, replaced), *_ = contents_of([str(path)], {str(path): content})
    assert open_dataset(config).fingerprint() != before
    assert replaced.digest != content.digest


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_annotations_replaced_by_others_of_the_same_size_make_other_data(tmp_path: Path, kind: str) -> None:
    config = DataConfig(uri=str(TREES[kind](tmp_path)))
    before = open_dataset(config).fingerprint()
    path = next(path for path in sorted(tmp_path.rglob("*")) if path.suffix in (".xml", ".json"))
    replace(path, path.read_bytes().replace(b"ellipse", b"ELLIPSE").replace(b"ring", b"RING").replace(b"star", b"STAR"))
    assert open_dataset(config).fingerprint() != before


def test_what_is_passed_over_is_told_with_a_count_and_an_example(config: DataConfig, dataset: Dataset) -> None:
    for split in dataset.splits:
        dataset.records(split)
    assert dataset.passed_over == ()
    if dataset.kind == "shapes":
        return
    for number in range(2):
        Path(config.uri, f"notes {number}.Odd").write_text("hello")
    again = open_dataset(config)
    for split in again.splits:
        again.records(split)
    assert [str(one) for one in again.passed_over] == ["2 files .odd (e.g. notes 0.Odd)"]


def test_a_run_inside_the_data_set_is_no_part_of_it(config: DataConfig, dataset: Dataset) -> None:
    if dataset.kind == "shapes":
        return
    before = [dataset.records(split) for split in dataset.splits], dataset.fingerprint()
    run = Path(config.uri, "runs", "first")
    (run / "index" / "0123").mkdir(parents=True)
    for path in ("recipe.yaml", "index/0123/part-0.parquet", "report/picture.png", "annotations/instances_odd.json"):
        (run / path).parent.mkdir(parents=True, exist_ok=True)
        (run / path).write_text("nonsense")
    again = open_dataset(config)
    assert ([again.records(split) for split in again.splits], again.fingerprint()) == before
    assert again.passed_over == ()


def test_true_boxes_are_checked_without_telling_where_they_are(config: DataConfig, dataset: Dataset) -> None:
    for split in dataset.splits:
        truth = dataset.ground_truth(split)
        objects = sum(len(of.boxes_xyxy) for of in truth.values())
        counts, digest = check_true_boxes(dataset, split, dict.fromkeys(truth, (64, 64)).copy)
        assert digest == digest_of(truth) == check_true_boxes(open_dataset(config), split)[1]
        assert counts == BoxCounts(images=len(truth), objects=objects, cut=0, left_out=0)
        assert {of.size_hw for of in truth.values()} <= {(64, 64), (0, 0)}


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_a_picture_of_another_size_than_its_annotation_states_is_refused(tmp_path: Path, kind: str) -> None:
    config = DataConfig(uri=str(TREES[kind](tmp_path)))
    dataset = open_dataset(config)
    split = dataset.splits[0]
    image_id = next(i for i, of in dataset.ground_truth(split).items() if len(of.boxes_xyxy))
    with pytest.raises(
        DataError, match=rf"image {image_id}: expected a picture of 64 x 64 pixels .* got one of 32 x 64"
    ):
        check_true_boxes(dataset, split, lambda: {image_id: (64, 32)})
    ignoring = open_dataset(DataConfig(uri=config.uri, stated_size="ignore"))
    scaling = open_dataset(DataConfig(uri=config.uri, stated_size="scale"))
    check_true_boxes(ignoring, split, lambda: {image_id: (64, 32)})
    check_true_boxes(scaling, split, lambda: {image_id: (128, 128)})


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_a_list_of_images_of_which_none_has_a_file_is_refused(tmp_path: Path, kind: str) -> None:
    root = TREES[kind](tmp_path)
    pictures = sorted(root.rglob("*.jpg"))
    for path in pictures[1:]:  # the first is of the first split
        path.unlink()
    dataset = open_dataset(DataConfig(uri=str(root)))
    with pytest.raises(DataError, match=r"expected .*images .*, found no(ne| file of any) \(e\.g\. "):
        dataset.records(dataset.splits[1])
    partly = open_dataset(DataConfig(uri=str(root), splits=dataset.splits[:1]))
    assert [(one.what, one.count) for one in partly.passed_over] == [("listed images without a file", 3)]


def test_one_split_can_be_chosen(config: DataConfig, dataset: Dataset) -> None:
    chosen = DataConfig(uri=config.uri, shapes=config.shapes, splits=dataset.splits[-1:])
    assert open_dataset(chosen).splits == dataset.splits[-1:]


def test_a_split_that_is_not_there_is_refused(config: DataConfig, dataset: Dataset) -> None:
    with pytest.raises(DataError, match=f"(?s)data.splits.*{dataset.splits[0]}|{dataset.splits[0]}.*data.splits"):
        open_dataset(DataConfig(uri=config.uri, shapes=config.shapes, splits=("nonsense",)))


def test_unknown_split_is_named_beside_the_known_ones(dataset: Dataset) -> None:
    with pytest.raises(DataError, match=dataset.splits[0]):
        dataset.records("nonsense")


def test_training_split_is_found(config: DataConfig, dataset: Dataset) -> None:
    expected = {"voc": "trainval", "coco": "train2017", "folder": "all", "shapes": "train"}
    assert train_split(dataset, config) == expected[dataset.kind]


class Splits:
    """The part of a data set that ``train_split`` looks at."""

    def __init__(self, *splits: str) -> None:
        self.splits = splits


@pytest.mark.parametrize(
    ("splits", "asked", "granted"),
    [
        (("trainval", "test"), "auto", "trainval"),
        (("train", "train_extra", "val"), "auto", "train"),
        (("train2014", "val2014"), "auto", "train2014"),
        (("Train", "Test"), "auto", "Train"),
        (("default",), "auto", "default"),
        (("a", "b"), "b", "b"),
        (("a", "b"), "none", "none"),
    ],
)
def test_training_split_by_name(splits: tuple[str, ...], asked: str, granted: str) -> None:
    assert train_split(Splits(*splits), DataConfig(train_split=asked)) == granted  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("splits", "asked"),
    [(("val",), "auto"), (("Train", "train"), "auto"), (("train2014", "train2017"), "auto"), (("a",), "b")],
)
def test_training_split_that_cannot_be_told_is_an_error(splits: tuple[str, ...], asked: str) -> None:
    with pytest.raises(ConfigError, match=r"expected one of .* or none"):
        train_split(Splits(*splits), DataConfig(train_split=asked))  # type: ignore[arg-type]


def test_no_address_is_an_error_that_says_how_to_give_one() -> None:
    with pytest.raises(ConfigError, match="--data URI"):
        open_dataset(DataConfig())


def test_a_split_that_is_named_twice_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"data\.splits: expected each split once, got 'train' 2 times"):
        open_dataset(DataConfig(uri="shapes:", splits=("train", "val", "train")))


def test_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    for kind in ("auto", "voc", "coco", "folder"):
        with pytest.raises(DataError, match="nowhere"):
            open_dataset(DataConfig(uri=str(tmp_path / "nowhere"), kind=kind))  # type: ignore[arg-type]


@pytest.mark.slow
def test_data_sets_on_s3_equal_those_on_disk(tmp_path: Path) -> None:
    with s3_server("weaksam-datasets") as bucket:
        for kind, build in TREES.items():
            local, remote = build(tmp_path / kind), join(bucket, kind)
            fs, path = open_fs(remote)
            fs.put(f"{local}/", f"{path}/", recursive=True)
            there, here = (open_dataset(DataConfig(uri=uri)) for uri in (remote, str(local)))
            assert (there.kind, there.class_names, there.splits) == (kind, here.class_names, here.splits)
            before = there.fingerprint()
            assert open_dataset(DataConfig(uri=remote)).fingerprint() == before
            for split in here.splits:
                for a, b in zip(there.records(split), here.records(split), strict=True):
                    assert (a.image_id, a.labels, a.labels_difficult) == (b.image_id, b.labels, b.labels_difficult)
                    assert read_bytes(a.uri) == read_bytes(b.uri)
                truth = here.ground_truth(split)
                for image_id, objects in there.ground_truth(split).items():
                    np.testing.assert_array_equal(objects.boxes_xyxy, truth[image_id].boxes_xyxy)
            picture = there.records(there.splits[0])[0].uri
            fs.pipe_file(open_fs(picture)[1], bytes(len(read_bytes(picture))))
            assert open_dataset(DataConfig(uri=remote)).fingerprint() != before


def test_drawn_images_are_not_looked_for_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.uri: expected shapes: with data\.kind=shapes.*got "):
        open_dataset(DataConfig(uri=str(tmp_path), kind="shapes"))
    assert open_dataset(DataConfig(uri="shapes:", kind="shapes")).kind == "shapes"
    assert open_dataset(DataConfig(kind="shapes")).kind == "shapes"

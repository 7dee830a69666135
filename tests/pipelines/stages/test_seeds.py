"""Seeds: what the stage makes of prompts and superpixels, what they may hold, and what is done again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pipelines.dataflow.rows import FETCHED
from pipelines.engine.stage import Options
from pipelines.products.index import Index
from pipelines.products.label_maps import SeedTable
from pipelines.runner import Run
from pipelines.stages.seeds.maps import class_mapper
from pipelines.stages.seeds.stage import SeedActor, SeedSpec
from pipelines.store.instances import Instance
from pipelines.store.schemas import SUPERPIXELS, automatic_masks_to_row
from pipelines.store.tables import Table
from tests.pipelines.stages.test_train_prompts import recipe_of
from tests.support.automatic_masks import automatic_masks
from tests.support.small_clip import tiny_clip, write_tiny_clip
from weaksam.clues.loading import build_classifier, classifier_to_bytes
from weaksam.config import (
    AffinityConfig,
    CamConfig,
    ClipConfig,
    PromptLayoutConfig,
    SeedConfig,
    WeakTrConfig,
    Weights,
)
from weaksam.datasets.shapes import CLASS_NAMES, read_shape_png
from weaksam.errors import DataError, WeaksamError
from weaksam.label_maps import decode_label_map
from weaksam.segmentation.agreement import NOT_CHECKED, CheckedSeed
from weaksam.segmentation.prompted import PromptedClip, prompts_to_bytes
from weaksam.segmentation.seeding import Seed
from weaksam.transforms import normalise

SIZE = 64
CHAIN = [
    "superpixels.points_per_side=4",
    "train-prompts.maps.objective=activation",
    "train-prompts.maps.learn_from=seeds",
    "seeds.fine.model=train-prompts.maps",
    "seeds.fine.background_power=0.7",
    "seeds.fine.measure_agreement=true",
    "seeds.pixels.superpixels=''",
]


def actor_of(folder: Path, class_names: tuple[str, ...] = CLASS_NAMES, **options: Any) -> SeedActor:
    config = ClipConfig(weights=Weights(str(write_tiny_clip(folder))), background=("ground", "blob"))
    torch.manual_seed(0)
    prompted = PromptedClip(tiny_clip(), class_names, config, PromptLayoutConfig(length=4))
    (folder / "prompts.safetensors").write_bytes(prompts_to_bytes(prompted, class_names, config))
    return SeedActor(
        SeedSpec(
            instance=Instance(str(folder), "seeds", "k"),
            maps=config,
            model=Weights(str(folder / "prompts.safetensors")),
            config=SeedConfig(affinity=AffinityConfig(layers=2), **options),
            superpixels=superpixels_in(folder / "superpixels"),
            class_names=CLASS_NAMES,
            supervision="image-labels",
            threads=1,
            device="cpu",
        )
    )


def superpixels_in(folder: Path) -> Table:
    """The superpixels of ``two``, its halves, of ``nothing``, its left half, and of images that have none."""
    wholes = {"two": [half(left=True), half(left=False)], "nothing": [half(left=True)], "none": [], "pixels": []}
    rows = [
        automatic_masks_to_row(image_id, "i", automatic_masks(masks, size_hw=(SIZE, SIZE)))
        for image_id, masks in wholes.items()
    ]
    table = Table(str(folder), SUPERPIXELS)
    table.write_rows(rows, "part-0")
    return table


def batch_of(*rows: dict[str, Any]) -> pa.Table:
    """Images with their labels."""
    blank = {"uri": "", "input": "i", "reason": None, "detail": None}
    image = {**blank, "bytes": read_shape_png(f"shapes:train/0?size={SIZE}&seed=0")}
    return pa.Table.from_pylist([{**image, **row} for row in rows], schema=FETCHED)


def half(left: bool) -> NDArray[np.bool_]:
    mask = np.zeros((SIZE, SIZE), np.bool_)
    mask[:, : SIZE // 2] = left
    mask[:, SIZE // 2 :] = not left
    return mask


def test_a_seed_is_made_of_superpixels_and_holds_the_labels_of_its_image_alone(tmp_path: Path) -> None:
    actor = actor_of(tmp_path)
    done = actor(
        batch_of(
            {"image_id": "two", "labels": [1, 4]},
            {"image_id": "none", "labels": [1, 4]},
            {"image_id": "nothing", "labels": []},
        )
    )
    two, none, nothing = done.to_pylist()
    maps = [decode_label_map(row["label_map"], "") for row in (two, none, nothing)]
    assert all(label_map.shape == (SIZE, SIZE) for label_map in maps)
    assert [len(np.unique(maps[0][:, side])) for side in (np.s_[: SIZE // 2], np.s_[SIZE // 2 :])] == [1, 1]
    assert all(set(np.unique(label_map)) <= {0, 2, 5} for label_map in maps[:2])
    assert maps[0].any()
    assert not maps[2].any()
    assert [(row["superpixels"], row["coverage"], row["fallback"]) for row in (two, none, nothing)] == [
        (2, 1.0, False),
        (0, 0.0, True),
        (1, 0.5, False),
    ]


def test_a_seed_that_is_cut_out_holds_the_labels_of_its_image_alone(tmp_path: Path) -> None:
    images = [{"image_id": "pixels", "labels": [1, 4]}, {"image_id": "none", "labels": []}]
    plain, cut = ([decode_label_map(row["label_map"], "") for row in actor_of(tmp_path, grabcut=of)(
        batch_of(*images)
    ).to_pylist()] for of in (False, True))  # fmt: skip
    assert set(np.unique(cut[0])) <= {0, 2, 5}
    assert (cut[0] != plain[0]).any()
    assert not cut[1].any()


def test_a_seed_is_measured_without_its_true_map_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = []

    def check_seed(_mapper: object, _image: object, class_index: list[int], seed: Seed, _paint: object) -> CheckedSeed:
        checked.append((class_index, seed.label_map.tolist()))
        return CheckedSeed(agreement=0.25, clip_score=0.5) if class_index else NOT_CHECKED

    monkeypatch.setattr("weaksam.segmentation.agreement.check_seed", check_seed)
    rows = [
        {"image_id": "two", "labels": [1, 4]},
        {"image_id": "nothing", "labels": []},
    ]
    plain = actor_of(tmp_path)(batch_of(*rows)).to_pylist()
    measured = actor_of(tmp_path, measure_agreement=True)(batch_of(*rows)).to_pylist()
    assert [row["label_map"] for row in measured] == [row["label_map"] for row in plain]
    assert checked == [
        (row["labels"], decode_label_map(of["label_map"], "").tolist()) for row, of in zip(rows, measured, strict=True)
    ]
    assert (measured[0]["agreement"], measured[0]["clip_score"]) == (0.25, 0.5)
    for row in (*plain, measured[1]):
        assert (row["agreement"], row["clip_score"]) == (None, None)


def test_a_picture_that_cannot_be_read_is_set_aside(tmp_path: Path) -> None:
    actor = actor_of(tmp_path)
    failed = {"image_id": "bad", "labels": [1], "bytes": None, "reason": "corrupt"}
    assert actor(batch_of({**failed, "detail": "cut off"})).num_rows == 0
    assert [path.suffix for path in tmp_path.rglob("_dropped/*")] == [".parquet"]


def test_prompts_of_other_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected maps of the classes ellipse, .*, got those of ring, star"):
        actor_of(tmp_path, ("ring", "star"))


def test_maps_of_a_classifier_are_its_finest_over_its_views(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = WeakTrConfig(stem="cnn", patch_size=8, dim=32, depth=2, heads=2, fusion_reduction=2)
    network = build_classifier(source, len(CLASS_NAMES)).eval()
    (tmp_path / "classifier.safetensors").write_bytes(classifier_to_bytes(network, CLASS_NAMES))
    weights, cam = Weights(str(tmp_path / "classifier.safetensors")), CamConfig(scales=(1.0,), cross_layers=())
    mapper = class_mapper(cam, weights, SeedConfig(), CLASS_NAMES, "cpu")
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    pixels = normalise(torch.from_numpy(image).permute(2, 0, 1))[None]
    with torch.no_grad():
        fine = [network.activation_maps(of, (1, 4), ("fine",), ())["fine"][0, :, 0] for of in (pixels, pixels.flip(-1))]
    both = F.interpolate((fine[0] + fine[1].flip(-1))[None], (48, 64), mode="bilinear")[0]
    low, high = both.amin(dim=(1, 2), keepdim=True), both.amax(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(mapper(image, [1, 4]), (both - low) / (high - low + 1e-8))
    assert mapper(image, []).shape == (0, 48, 64)
    with pytest.raises(DataError, match="expected maps of the classes cat, got those of ellipse, "):
        class_mapper(cam, weights, SeedConfig(), ("cat",), "cpu")


def test_seeds_depend_on_the_options_of_the_maps_that_they_are_made_of(tmp_path: Path) -> None:
    def key(*settings: str) -> str:
        return Run(recipe_of(tmp_path, *settings), str(tmp_path / "run")).instance("seeds").key

    of_classifier = ("clues.source.name=weaktr", "seeds.model=train-classifier")
    assert key() != key(*of_classifier)
    assert key() == key("clues.cam.scales=[1.0]")
    assert key(*of_classifier) != key(*of_classifier, "clues.cam.scales=[1.0]")
    assert key(*of_classifier) == key(*of_classifier, "clip.background=[sky]")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["clues.source.name=none", "seeds.model=train-classifier"], "a classifier that this run trains"),
        (
            ["clues.source.name=weaktr", "clues.weights=c.safetensors", "seeds.model=train-classifier"],
            "this run trains",
        ),
        (
            ["clues.source.name=weaktr", "seeds.model=train-classifier", "seeds.measure_agreement=true"],
            "only CLIP says",
        ),
        (["seeds.grabcut=true", "seeds.measure_agreement=true"], "after they are measured"),
    ],
)
def test_seeds_that_cannot_be_made_or_measured_are_refused(tmp_path: Path, settings: list[str], message: str) -> None:
    with pytest.raises(WeaksamError, match=message):
        Run(recipe_of(tmp_path, *settings), str(tmp_path / "run")).instance("seeds")


@pytest.mark.slow
def test_two_sets_of_prompts_make_coarse_and_fine_seeds(tmp_path: Path) -> None:
    run = Run(recipe_of(tmp_path, *CHAIN), str(tmp_path / "run"))
    manifests = run.bring(["seeds", "seeds.pixels", "seeds.fine"], Options())
    labels = {row["image_id"]: set(row["labels"] or ()) for row in Index(run.instance("index")).table.iter_rows()}
    for name in ("seeds", "seeds.pixels", "seeds.fine"):
        seeds = list(SeedTable(run.instance(name)).images())
        assert {seed.split for seed in seeds} == {"train"}
        assert len(seeds) == 6
        for seed in seeds:
            assert set(np.unique(seed.label_map)) <= {0, *(c + 1 for c in labels[seed.image_id])}
            assert seed.supervision == "image-labels"
    assert manifests["seeds"]["superpixels"] > 0
    assert 0 < manifests["seeds"]["coverage"] <= 1
    assert manifests["seeds.pixels"]["fallbacks"] == 6
    assert "agreement" not in manifests["seeds"]
    rows = [row["agreement"] for row in SeedTable(run.instance("seeds.fine")).table.iter_rows(("agreement",))]
    assert manifests["seeds.fine"]["agreement"] == pytest.approx(sum(rows) / len(rows), abs=1e-6)
    assert "views agree to" in manifests["seeds.fine"]["text"]
    assert "unknown labels" not in manifests["seeds"]["text"]
    # Another power of the background costs seeds, and what learns from them; nothing that they are made of.
    again = Run(recipe_of(tmp_path, *CHAIN, "seeds.fine.background_power=2.0"), str(tmp_path / "run"))
    names = ("superpixels", "seeds", "train-prompts.maps", "seeds.fine")
    assert [run.instance(name).key == again.instance(name).key for name in names] == [True, True, True, False]

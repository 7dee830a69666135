"""The floors and doors of the house: who may import whom, who may see true boxes, what may load files."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path

import pytest

import pipelines.recipe.config
import weaksam
import weaksam.config

ROOT = Path(weaksam.__file__).parents[1]
FOREIGN_TO_THE_METHOD = {
    "ray", "pyarrow", "yaml", "pydantic", "typer", "rich", "jinja2", "psutil", "pipelines", "tune",
}  # fmt: skip
TRUE_OBJECTS = "pipelines.exchange.true_objects"
EXPORTS_OF_TRUTH = {  # the one way from true boxes, and from true masks, to a trainer: they mark what they write
    "pipelines.exchange.true_boxes",
    "pipelines.exchange.true_masks",
}
WAYS_TO_GROUND_TRUTH = ("ground_truth", "true_masks", "true_label_maps")
READERS_OF_GROUND_TRUTH = {  # evaluate, analyse, report, tune; never a stage whose result a model is trained on
    "pipelines.evaluate.proposals", "pipelines.evaluate.detections", "pipelines.evaluate.pseudo_labels",
    "pipelines.evaluate.pseudo_masks", "pipelines.evaluate.label_maps",
    "pipelines.analyse.prompts", "pipelines.analyse.noise", "pipelines.report.stage",
    "pipelines.evaluate.sections.failures", "pipelines.report.sections.gallery",  # draw them
    "pipelines.evaluate.sections.pseudo_masks", "pipelines.evaluate.sections.label_maps",
    "pipelines.evaluate.sections.seeds", "pipelines.evaluate.sections.detected_masks",
    # measure what was trained; what they say chooses settings of a sweep, and the sweep says so
    "pipelines.variants.objectives.detections", "pipelines.variants.objectives.pseudo_labels",
    TRUE_OBJECTS,
}  # fmt: skip

FAMILIES = {"clues", "sam", "detectors", "segmentation", "datasets", "metrics"}
ROOMS_OF_THE_METHOD = (  # from the ground up: a room imports itself and those below it
    {
        "errors",
        "structures",
        "random",
        "registry",
        "boxes",
        "boxes_np",
        "masks",
        "masks_np",
        "mask_runs",
        "outlines_np",
        "grab_cut",
        "grids",
        "transforms",
        "drawing",
        "heap",
        "threads",
        "chunks",
    },
    {"io"},
    {"config", "label_maps"},
    {"networks", "precision"},
    {"losses", "pseudo_labels"},
    FAMILIES,
    {"proposals"},
)
ROOMS_OF_THE_PIPELINES = (  # as above, and those of one floor do not import each other
    {"recipe"},
    {"store"},
    {"engine"},
    {"products"},
    {"registry"},
    {"page"},
    {"dataflow", "training"},
    {"stages"},
    {"evaluate"},
    {"analyse"},
    {"report"},
    {"bringing"},
    {"runner"},
    {"variants", "exchange"},
    {"predict"},
    {"cli"},
)
WHERE_CLUES_AND_SAM_MEET = {"weaksam.proposals.proposer", "weaksam.proposals.filters"}


@cache
def module_trees() -> dict[str, ast.Module]:
    """Every module of ours by dotted name."""
    trees = {}
    for path in sorted(p for package in ("weaksam", "pipelines", "tune") for p in (ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        trees[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return trees


def imported_by(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted names that a module imports, anywhere in it except for the type checker alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imported_by(node)


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Yield each call in a module with what is called, as written (``torch.load``)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_method_imports_nothing_of_the_floors_above() -> None:
    found = [
        f"{name} imports {imported}"
        for name, tree in module_trees().items()
        for imported in imported_by(tree)
        if name.startswith("weaksam") and imported.split(".")[0] in FOREIGN_TO_THE_METHOD
    ]
    assert found == []


def rooms_met(package: str) -> Iterator[tuple[str, str, str]]:
    """Yield each module of a package, its room, and another room that it imports."""
    for name, tree in module_trees().items():
        if name.startswith(f"{package}."):
            room = name.split(".")[1]
            met = {imported.split(".")[1] for imported in imported_by(tree) if imported.startswith(f"{package}.")}
            yield from ((name, room, other) for other in sorted(met - {room}))


def floors_of(package: str, rooms: tuple[set[str], ...]) -> dict[str, int]:
    """Number the floor of each room; every room of the package stands on one."""
    floors = {room: floor for floor, on_it in enumerate(rooms) for room in on_it}
    assert {name.split(".")[1] for name in module_trees() if name.startswith(f"{package}.")} == floors.keys()
    return floors


def test_rooms_of_the_method_import_downwards() -> None:
    floors = floors_of("weaksam", ROOMS_OF_THE_METHOD)
    met = rooms_met("weaksam")
    assert [f"{name} imports {other}" for name, room, other in met if floors[other] > floors[room]] == []


def test_rooms_of_the_pipelines_import_downwards() -> None:
    floors = floors_of("pipelines", ROOMS_OF_THE_PIPELINES)
    met = rooms_met("pipelines")
    assert [f"{name} imports {other}" for name, room, other in met if floors[other] >= floors[room]] == []


def test_only_the_command_lines_know_a_terminal() -> None:
    assert [
        name
        for name, tree in module_trees().items()
        if not f"{name}.".startswith(("pipelines.cli.", "tune.cli."))
        and (
            any(imported.split(".")[0] in ("rich", "typer") for imported in imported_by(tree))
            or any(called == "print" for called, _ in calls(tree))
        )
    ] == []


def test_families_of_the_method_do_not_import_each_other() -> None:
    families = FAMILIES | {"proposals"}
    found = [
        f"{name} imports {other}"
        for name, room, other in rooms_met("weaksam")
        if {room, other} <= families and name not in WHERE_CLUES_AND_SAM_MEET
    ]
    assert found == []


def test_the_pipelines_do_not_import_the_sweeps() -> None:
    assert [
        name
        for name, tree in module_trees().items()
        if not name.startswith("tune") and any(i.split(".")[0] == "tune" for i in imported_by(tree))
    ] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    trees = module_trees()
    edges = {name: {i for i in imported_by(tree) if i in trees and i != name} for name, tree in trees.items()}
    finished: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in finished:
            for other in sorted(edges[name]):
                visit(other, (*trail, name))
            finished.add(name)

    for name in sorted(edges):
        visit(name, ())


def test_every_module_of_the_method_imports_where_the_floors_above_are_not_installed() -> None:
    names = [module.name for module in pkgutil.walk_packages(weaksam.__path__, "weaksam.")]
    assert "weaksam.structures" in names
    run_python(f"""
import importlib, sys

class WhatIsInstalled:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *others):
        foreign = name.partition(".")[0] in {FOREIGN_TO_THE_METHOD - {"yaml"}!r}  # which transformers brings
        return None if foreign else self.finder.find_spec(name, *others)

sys.meta_path = [WhatIsInstalled(finder) for finder in sys.meta_path]
for name in {names!r}:
    importlib.import_module(name)
""")


@pytest.mark.parametrize("statement", ["import pipelines.cli.app, pipelines.runner", "import pipelines.engine.status"])
def test_the_command_line_loads_neither_torch_nor_ray(statement: str) -> None:
    loaded = run_python(f"import sys\n{statement}\nprint(sorted({{'torch', 'ray', 'timm', 'cv2'}} & set(sys.modules)))")
    assert loaded.strip() == "[]"


def test_naming_the_members_of_families_imports_none_of_them() -> None:
    loaded = run_python("""
import sys
import weaksam.clues, weaksam.datasets, weaksam.detectors.mil, weaksam.detectors.retrained, weaksam.sam
import weaksam.segmentation.segmenters
members = [weaksam.clues.CLUES, weaksam.datasets.DATASETS, weaksam.sam.SAMS]
members += [weaksam.detectors.mil.MIL_DETECTORS, weaksam.detectors.retrained.RETRAINED]
members += [weaksam.segmentation.segmenters.SEGMENTERS]
assert all(list(family) for family in members)
print(sorted({"torch", "segment_anything", "weaksam.datasets.voc"} & set(sys.modules)))
""")
    assert loaded.strip() == "[]"


def test_a_member_of_a_family_is_imported_without_the_others() -> None:
    loaded = run_python("""
import sys
from weaksam.detectors import inference, loading
from weaksam.detectors.retrained import RETRAINED
from weaksam.registry import load
load(RETRAINED["faster_rcnn"].implementation)
families = ("weaksam.clues", "weaksam.sam", "weaksam.proposals", "segment_anything", "timm")
others = ("weaksam.detectors.retrained.dino", "weaksam.detectors.mil.mist", "weaksam.detectors.mil.oicr")
print([name for name in sys.modules if name.startswith(families + others)])
""")
    assert loaded.strip() == "[]"


def test_true_boxes_and_masks_are_read_by_evaluation_analysis_report_and_sweeps_only() -> None:
    readers = {
        name
        for name, tree in module_trees().items()
        if any(isinstance(n, ast.Attribute) and n.attr in WAYS_TO_GROUND_TRUTH for n in ast.walk(tree))
    }
    assert {name for name in readers if not name.startswith("weaksam.datasets")} == READERS_OF_GROUND_TRUTH


def test_only_the_command_line_exports_true_boxes_and_masks_and_no_stage_does() -> None:
    trees = module_trees()
    assert {name for name, tree in trees.items() if TRUE_OBJECTS in imported_by(tree)} == EXPORTS_OF_TRUTH
    importers = {
        export: {name for name, tree in trees.items() if export in imported_by(tree)} for export in EXPORTS_OF_TRUTH
    }
    assert importers == {
        "pipelines.exchange.true_boxes": {"pipelines.cli.exchange"},
        "pipelines.exchange.true_masks": set(),
    }


def config_fields() -> list[tuple[str, str, str]]:
    return [
        (value.__module__, name, field.name)
        for module in (weaksam.config, pipelines.recipe.config)
        for name, value in vars(module).items()
        if is_dataclass(value) and value.__module__.startswith(module.__name__)
        for field in fields(value)
    ]


def test_every_option_is_read_outside_the_file_that_declares_it() -> None:
    used: dict[str, set[str]] = {}
    for module, tree in module_trees().items():
        by_name = any(called == "getattr" for called, _ in calls(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                used.setdefault(node.attr, set()).add(module)
            elif by_name and isinstance(node, ast.Constant) and isinstance(node.value, str):
                used.setdefault(node.value, set()).add(module)
    unread = [f"{owner}.{field}" for module, owner, field in config_fields() if not used.get(field, set()) - {module}]
    assert unread == []


def test_torch_loads_weights_only() -> None:
    careless = [
        f"{name}:{call.lineno}"
        for name, tree in module_trees().items()
        for called, call in calls(tree)
        if called == "torch.load"
        and not any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in call.keywords)
    ]
    assert careless == []


def test_nothing_unpickles_except_the_unpickler_that_refuses_code() -> None:
    found = [
        f"{name}:{call.lineno} {called}"
        for name, tree in module_trees().items()
        for called, call in calls(tree)
        if (
            called.split(".")[0] in ("pickle", "cloudpickle", "dill", "joblib", "marshal")
            and called.rpartition(".")[2] in ("load", "loads", "Unpickler")
        )
        or called in ("pandas.read_pickle", "pd.read_pickle", "eval", "exec")
    ]
    assert found == []
    unpicklers = [
        name
        for name, tree in module_trees().items()
        if any(isinstance(node, ast.Attribute) and node.attr.endswith("Unpickler") for node in ast.walk(tree))
    ]
    assert unpicklers == ["pipelines.exchange.pickles"]


def test_no_file_is_read_by_numpy_with_pickles_allowed() -> None:
    found = [
        f"{name}:{call.lineno}"
        for name, tree in module_trees().items()
        for _, call in calls(tree)
        if any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in call.keywords)
    ]
    assert found == []


def test_every_folder_with_modules_is_a_package_and_so_installed_with_the_project() -> None:
    folders = {
        path.parent
        for package in ("weaksam", "pipelines", "tune", "recipes")
        for path in (ROOT / package).rglob("*.py")
    }
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []

"""What a run folder of many rows costs the driver: to recognise it, to find what is new, to go on in the middle, to clean it.

    python -m benchmarks.store                    118,287 rows, as many as COCO has training images; minutes on two cores
    python -m benchmarks.store --rows 1000000     the same of a million

The stages ``index`` and ``propose`` write the folder as they write any other, in parts of the size that they choose. Two
things are put in the place of others: the data set lists drawn images that are never drawn, and an image gets ``--boxes``
random boxes, far fewer than SAM finds, so that a million rows fit onto a disk. Each line of the table is a process of its own,
which says how long it took until it was through, or until the first image was asked for, and how much memory it took at most.
Files opened and folders listed are those of the run folder. ``--s3-rows`` is the size of the same folder in a bucket, whose
server counts the requests.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pyarrow as pa

NEW = 1_000  # images that the data set has got since
_CLEAN = "from pipelines.cli.app import main; main()"


class Scene(NamedTuple):
    """A driver at work on the folder."""

    name: str
    new: int = 0  # images that the data set has got since the folder was begun, in a split of their own
    share: float = 1.0  # of the images of the data set, after which the driver is stopped


SCENES = (
    Scene("write the first half", share=0.5),
    Scene("resume at 50 %: find what is left", share=0.0),
    Scene("write the second half"),
    Scene("recognise it as finished"),
    Scene(f"find {NEW:,} new images", new=NEW, share=0.0),
)
WRITE_NEW = Scene(f"write {NEW:,} new images", new=NEW)


class Measured(NamedTuple):
    """What a scene took."""

    seconds: float
    cpu_s: float  # of all its threads: what a busy machine does not change
    peak_mib: float
    calls: dict[str, int]  # kind -> how many: of files of the run folder, or requests of a bucket
    found: str  # what the driver said was to do


def main() -> None:
    """Act every scene and print a table for each folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, action="append", help="of a folder on the disk; may be given again")
    parser.add_argument("--s3-rows", type=int, default=20_000, help="of a folder in a bucket; 0 = none")
    parser.add_argument("--boxes", type=int, default=5, help="per image")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="on the disk where folders are written")
    parser.add_argument("--act", help=argparse.SUPPRESS)  # one scene, as JSON, for the parent's table
    args = parser.parse_args()
    if args.act:
        asked = json.loads(args.act)
        print(json.dumps(_act(Scene(*asked.pop("scene")), **asked)))
        return
    for rows in args.rows or [118_287]:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            _tell(Path(folder, "run").as_posix(), rows, args.boxes, "on a disk", Counter)
    if args.s3_rows:
        with _bucket() as (uri, requests):
            _tell(f"{uri}/run", args.s3_rows, args.boxes, "in a bucket", requests)


def _tell(uri: str, rows: int, boxes: int, where: str, requests: Callable[[], Counter[str]]) -> None:
    print(f"\n{rows:,} rows of {boxes} boxes {where}\n{'':36}{'seconds':>9}{'of CPU':>8}{'MiB':>7}  files or requests")
    for scene in SCENES:
        measured = _in_fresh_process(scene, uri, rows, boxes, requests)
        _print(scene.name, measured)
    if measured.found.startswith(f"{NEW:,} of"):
        _print(WRITE_NEW.name, _in_fresh_process(WRITE_NEW, uri, rows, boxes, requests))
    files, before, started, cpu_s = _parts(uri), requests(), time.perf_counter(), _cpu_s_of_children()
    _run([sys.executable, "-c", _CLEAN, "clean", uri, "--yes"])
    seconds, cpu_s = time.perf_counter() - started, _cpu_s_of_children() - cpu_s
    found = f"{files:,} -> {_parts(uri):,} files of rows; those that were replaced are deleted an hour later"
    _print("clean", Measured(seconds, cpu_s, float("nan"), dict(requests() - before), found))


def _print(name: str, measured: Measured) -> None:
    calls = ", ".join(f"{kind} {count:,}" for kind, count in sorted(measured.calls.items()))
    print(
        f"{name:36}{measured.seconds:9.1f}{measured.cpu_s:8.1f}{measured.peak_mib:7.0f}  {calls}; {measured.found}",
        flush=True,
    )


def _in_fresh_process(scene: Scene, uri: str, rows: int, boxes: int, requests: Callable[[], Counter[str]]) -> Measured:
    before = requests()
    asked = json.dumps({"scene": scene, "uri": uri, "rows": rows, "boxes": boxes})
    measured = Measured(*json.loads(_run([sys.executable, "-m", "benchmarks.store", "--act", asked])))
    return measured._replace(calls=dict(requests() - before) or measured.calls)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stderr}")
    return (done.stdout.strip().splitlines() or [""])[-1]


def _cpu_s_of_children() -> float:
    used = os.times()
    return used.children_user + used.children_system


def _parts(uri: str) -> int:
    """Return how many files the table of proposals has."""
    from pipelines.store.instances import current_instance
    from pipelines.store.schemas import PROPOSALS

    instance = current_instance(uri, "propose")
    assert instance is not None
    return len(instance.table(PROPOSALS).parts())


class _EnoughError(Exception):
    """Stops a driver."""


def _act(scene: Scene, uri: str, rows: int, boxes: int) -> Measured:
    """Bring ``propose`` up to date in this process, or as far as the scene goes."""
    from pipelines.engine.stage import Options
    from pipelines.recipe.model import load_recipe
    from pipelines.runner import Run

    counts = {"data.shapes.train": rows, "data.shapes.val": scene.new, "data.shapes.test": 0}
    how = {"stages": "[index, propose]", "propose.method": "selective-search", "resources.here": True}
    recipe, _ = load_recipe("grid", [f"{name}={value}" for name, value in {**counts, **how}.items()], "shapes:")
    heard, calls, started = _Heard(), _count_files(uri), time.perf_counter()
    with _stand_ins(boxes, round(scene.share * rows) if scene.share < 1 else rows + scene.new), suppress(_EnoughError):
        Run(recipe, uri).bring(["propose"], Options(), heard)
    return Measured(time.perf_counter() - started, time.process_time(), _peak_mib(), dict(calls), heard.to_do)


@contextmanager
def _stand_ins(boxes: int, budget: int) -> Iterator[None]:
    """Put the lists of images and the boxes in their places; stop the driver that asks for images beyond a budget."""
    fetched = 0

    def fetch(batch: pa.Table, *, longest_side: int) -> pa.Table:  # noqa: ARG001
        nonlocal fetched
        if fetched >= budget:
            raise _EnoughError
        fetched += batch.num_rows
        return batch

    def actor(schema: pa.Schema, **_: object) -> Callable[[pa.Table], pa.Table]:
        generator = np.random.default_rng(0)
        return lambda batch: random_proposals(batch, boxes, schema, generator)

    stage = "pipelines.stages.propose.stage"
    with (
        patch("weaksam.datasets.shapes.Shapes.records", _records),
        patch(f"{stage}.fetch", fetch),
        patch(f"{stage}.SearchActor", actor),
    ):
        yield


def _records(dataset: Any, split: str) -> list[Any]:
    """List drawn images as ``Shapes`` does, with labels that cost no drawing."""
    from weaksam.structures import ImageRecord

    return [
        ImageRecord(
            image_id=f"{split}-{index:07}",
            uri=f"shapes:{split}/{index}?size=128&seed=0",
            split=split,
            labels=(index % 6,),
            labels_difficult=(index % 6,),
        )
        for index in range(getattr(dataset._config, split))
    ]


def random_proposals(images: pa.Table, boxes: int, schema: pa.Schema, generator: np.random.Generator) -> pa.Table:
    """Return rows of proposals of images of 375 x 500 pixels: ``boxes`` each, of one source, prompted by nothing.

    Args:
        images: one row each; columns of ``schema`` that it has are taken over.
        boxes: per image.
        schema: of proposals.
        generator: of the corners.
    """
    rows = images.num_rows
    starts = generator.uniform(0, 250, (rows * boxes, 2))
    corners = np.concatenate([starts, starts + generator.uniform(8, 125, starts.shape)], axis=1).astype(np.float32)
    offsets = pa.array(np.arange(0, rows * boxes + 1, boxes, dtype=np.int32))
    per_box = {
        "boxes_xyxy": pa.FixedSizeListArray.from_arrays(corners.ravel(), 4),
        "source": pa.array(["selective-search"] * len(corners)),
        "prompt_index": pa.array(np.full(len(corners), -1, np.int32)),
        "mask_index": pa.array(np.full(len(corners), -1, np.int8)),
        "predicted_iou": pa.array(generator.uniform(0, 1, len(corners)).astype(np.float32)),
    }
    columns = []
    for field in schema:
        if field.name in per_box:
            columns.append(pa.ListArray.from_arrays(offsets, per_box[field.name]))
        elif field.name == "size_hw":
            columns.append(pa.array([[375, 500]] * rows, field.type))
        elif field.name in images.column_names:
            columns.append(images[field.name].combine_chunks())
        else:
            columns.append(pa.array([None if field.name == "mask_rle" else []] * rows, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


class _Heard:
    """A voice that remembers what was to do."""

    def __init__(self) -> None:
        self.to_do = ""

    def say(self, *words: Any) -> None:
        from pipelines.engine.voice import plain

        line = plain(words)
        if " to do" in line:
            self.to_do = line.partition(";")[0].strip()

    def table(self, table: Any) -> None:
        """Say nothing."""

    def sign_of_life(self, line: str) -> nullcontext[None]:  # noqa: ARG002
        """Say nothing."""
        return nullcontext()

    def rows(self, label: str, total: int, count: Callable[[], int]) -> nullcontext[None]:  # noqa: ARG002
        """Say nothing."""
        return nullcontext()

    def steps(self, label: str) -> nullcontext[Callable[[Any], None]]:  # noqa: ARG002
        """Say nothing."""
        return nullcontext(lambda _step: None)


def _count_files(uri: str) -> Counter[str]:
    """Count from now on which files of a folder this process opens, and how often it lists one of its folders."""
    counts: Counter[str] = Counter()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith(uri):
            written = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            counts["written" if written else "opened" if event == "open" else "listed"] += 1

    sys.addaudithook(hook)
    return counts


def _peak_mib() -> float:
    """Return the most memory that this process has had; what its parent had does not count, as in ``getrusage``."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 1024


@contextmanager
def _bucket() -> Iterator[tuple[str, Callable[[], Counter[str]]]]:
    """Start an S3 server; yield an empty bucket, and what tells how many requests of each kind there have been."""
    import fsspec
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    counts: Counter[str] = Counter()
    answer = DomainDispatcherApplication(create_backend_app)

    def counting(environ: dict[str, Any], start_response: Any) -> Any:
        method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
        counts["LIST" if method == "GET" and "prefix=" in query else method] += 1
        return answer(environ, start_response)

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"  # connections stay open

        def log(self, *_: Any) -> None:
            """Say nothing."""

    server = make_server("127.0.0.1", 0, counting, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    account = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    endpoint = f"http://127.0.0.1:{server.server_port}"
    with patch.dict(os.environ, account, AWS_ENDPOINT_URL=endpoint, AWS_EC2_METADATA_DISABLED="true"):
        fsspec.filesystem("s3", endpoint_url=endpoint).mkdir("rows")
        try:
            yield "s3://rows", counts.copy
        finally:
            server.shutdown()


if __name__ == "__main__":
    main()

"""``cluster/`` says what the code and the lock say: as it is, and with mistakes made on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.checks import faults
from tests.cluster.commands import commands, mistakes
from tests.cluster.repository import Repository

RAYJOB, RAYCRON, CRON = (f"cluster/kuberay/{name}.yaml" for name in ("rayjob", "raycronjob", "cronjob"))
MORNING, ACCESS, POLICY, RECIPE = (
    f"cluster/kuberay/{name}.yaml" for name in ("morning", "access", "network-policy", "recipe")
)
AWS, GCP, DOCKERFILE, PAGE = (
    f"cluster/{name}" for name in ("ray-cluster-aws.yaml", "ray-cluster-gcp.yaml", "Dockerfile", "README.md")
)

# What is done wrong: the file, what stands there, what is put in its place; what a fault must say, of which file.
MISTAKES: dict[str, tuple[str, str, str, str]] = {
    "an image of another Ray": (RAYJOB, "weaksam:0.1.0-ray2.60.0", "weaksam:0.1.0-ray2.59.0", f"{RAYJOB}: image "),
    "an image without a tag": (CRON, "kubectl:v1.34.3", "kubectl", f"{CRON}: image registry.k8s.io/kubectl; expected a fixed"),
    "another rayVersion": (RAYCRON, 'rayVersion: "2.60.0"', 'rayVersion: "2.61.0"', f"{RAYCRON}: rayVersion 2.61.0"),
    "a lock that moved on": ("requirements.lock", "\nray==2.60.0", "\nray==2.61.0", f"{RAYJOB}: rayVersion 2.60.0"),
    "a misspelt verb": (MORNING, "  weaksam status s3", "  weaksam staus s3", f"{MORNING}: `weaksam staus"),
    "a misspelt option": (RAYJOB, "--max-dropped 1%", "--max-droped 1%", f"{RAYJOB}: `weaksam run"),
    "an impossible share": (PAGE, "--json --max-dropped 1%`", "--json --max-dropped one%`", f"{PAGE}: `weaksam status"),
    "a recipe that is not there": (PAGE, "run coco17 --data /data/coco", "run coco71 --data /data/coco", "no recipe coco71"),
    "a base that is not there": (RECIPE, "presets/nightly.yaml", "presets/nightly.yml", "presets/nightly.yml"),
    "a setting that is not there": (PAGE, "--set resources.device=gpu", "--set resources.devices=gpu", f"{PAGE}: `weaksam run"),
    "an option that Ray does not have": (AWS, "--object-manager-port=8076\n", "--object-port=1\n", f"{AWS}: `ray start"),
    "a file that is not there": (PAGE, "ray up cluster/ray-cluster-aws.yaml", "ray up cluster/x.yaml", "names cluster/x.yaml"),
    "a variable that nobody reads": (DOCKERFILE, "WEAKSAM_CACHE=/cache", "WEAKSAM_CACHE_DIR=/c", "variable WEAKSAM_CACHE_DIR"),
    "another exit code": (MORNING, "values: [3]", "values: [4]", f"{MORNING}: exit codes [4]; expected [3]"),
    "an account that is not there": (CRON, "serviceAccountName: weaksam-starter", "serviceAccountName: x", "ServiceAccount x"),
    "a secret that nobody makes": (MORNING, "{name: tell, key", "{name: told, key", f"{MORNING}: no Secret told"),
    "rights to another job": (ACCESS, "resourceNames: [night]", "resourceNames: [nights]", f"{ACCESS}: rights to "),
    "nights that differ": (RAYCRON, "backoffLimit: 2", "backoffLimit: 6", f"{RAYCRON}: its jobTemplate differs"),
    "a morning that looks elsewhere": (MORNING, "bucket/runs/coco", "bucket/runs/voc", f"{MORNING}: looks at "),
    "nights that overlap": (CRON, "concurrencyPolicy: Forbid", "concurrencyPolicy: Allow", f"{CRON}: concurrencyPolicy Allow"),
    "a head that works": (RAYJOB, 'num-cpus: "0"', 'num-cpus: "4"', f"{RAYJOB}: the head's num-cpus '4'"),
    "a head on AWS that works": (AWS, "resources: {CPU: 0}", "resources: {CPU: 4}", f"{AWS}: the head's resources"),
    "workers that always stand": (GCP, "min_workers: 0", "min_workers: 1", f"{GCP}: gpu-spot.min_workers 1"),
    "workers on demand": (GCP, "provisioningModel: SPOT", "provisioningModel: STANDARD", f"{GCP}: gpu-spot is on demand"),
    "a GPU group without its limit": (RAYJOB, "100Gi, nvidia.com/gpu: 1}", "100Gi}", f"{RAYJOB}: gpu-spot: nvidia"),
    "a GPU group without its toleration": (RAYJOB, "key: nvidia.com/gpu", "key: nvidia.com/gpus", f"{RAYJOB}: gpu-spot: tol"),
    "workers without a cache": (RAYCRON, "mountPath: /cache}", "mountPath: /caches}", f"{RAYCRON}: gpu-spot: mounts nothing"),
    "a cluster without a token": (RAYJOB, "authOptions: {mode: token}", "authOptions: {mode: disabled}", f"{RAYJOB}: auth"),
    "ssh from everywhere": (AWS, "203.0.113.7/32", "0.0.0.0/0", f"{AWS}: 0.0.0.0/0; expected ssh alone"),
    "a dashboard for everybody": (GCP, "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", f"{GCP}: ray start"),
    "a policy that lets everybody in": (POLICY, "    - from:\n        - podSelector: {}\n", "    - {}\n", f"{POLICY}: an in"),
    "a pod that may be root": (MORNING, "runAsNonRoot: true", "runAsNonRoot: false", "CronJob morning may run as root"),
    "a container that may gain rights": (CRON, "allowPrivilegeEscalation: false", "privileged: true", "clear may gain rights"),
    "another namespace": (MORNING, "namespace: weaksam\nspec", "namespace: weaksan\nspec", "CronJob morning in weaksan"),
    "an image of another Python": (DOCKERFILE, "python:3.11.14-slim-bookworm\n", "python:3-slim\n", f"{DOCKERFILE}: FROM"),
    "packages that are not the locked ones": (
        DOCKERFILE, "--constraints /build/requirements.lock triton", "triton", f"{DOCKERFILE}: uv pip install",
    ),
    "a package that is not locked": (DOCKERFILE, "nvidia-nccl-cu13", "nvidia-nccl-cu14", "package nvidia-nccl-cu14"),
    "an extra that is not there": (DOCKERFILE, "--extra cluster", "--extra clusters", f"{DOCKERFILE}: extra clusters"),
    "an image that runs as root": (DOCKERFILE, "USER 1000:1000", "USER root", f"{DOCKERFILE}: no USER of its own"),
    "an index by name": (DOCKERFILE, "uv==0.13.8", "uv==0.13.8 --index-url https://x", f"{DOCKERFILE}: names '"),
    "a context without the code": (".dockerignore", "!pipelines\n", "", ".dockerignore: leaves pipelines out"),
    "a symptom that nobody says": (PAGE, "`this process stops writing`", "`this process is done`", "symptom 'this process"),
    "a page that names no file": (PAGE, "`kuberay/morning.yaml`", "`morning.yaml`", "README.md: names morning.yaml"),
    "a key that stands twice": (CRON, "  schedule:", '  timeZone: "x"\n  schedule:', f"{CRON}: key 'timeZone' stands twice"),
}  # fmt: skip


def test_nothing_is_wrong(tmp_path: Path) -> None:
    assert faults(Repository(), tmp_path) == []


@pytest.mark.parametrize(("file", "right", "wrong", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_named_with_its_file(tmp_path: Path, file: str, right: str, wrong: str, said: str) -> None:
    copy = Repository().copied(tmp_path)
    assert right in copy.text(file)
    (tmp_path / file).write_text(copy.text(file).replace(right, wrong), encoding="utf-8")
    found = faults(copy, tmp_path)
    assert [fault for fault in found if said in fault], found


def test_python_has_no_place_there(tmp_path: Path) -> None:
    copy = Repository().copied(tmp_path)
    (tmp_path / "cluster/kuberay/submit.py").write_text("")
    assert "cluster/kuberay/submit.py: Python in cluster/; expected console commands alone" in faults(copy, tmp_path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("weaksam status RUN > /tmp/x; code=$?", [["weaksam", "status", "RUN"]]),
        ("RAY_AUTH_MODE=token ray up a.yaml && ray down a.yaml", [["ray", "up", "a.yaml"], ["ray", "down", "a.yaml"]]),
        ("docker run --gpus all x.org/weaksam:1 weaksam doctor  # tries", [["weaksam", "doctor"]]),
        ("ray exec a.yaml 'weaksam clean RUN'", [["ray", "exec", "a.yaml", "weaksam clean RUN"], ["weaksam", "clean", "RUN"]]),
        ("ray job submit -- weaksam run grid", [["ray", "job", "submit", "--", "weaksam", "run", "grid"]]),
        ("kubectl get pods --namespace weaksam", []),
    ],
)  # fmt: skip
def test_commands_are_found_in_shell_code(line: str, expected: list[list[str]]) -> None:
    assert sorted(commands(line)) == sorted(expected)


def test_what_a_job_runs_is_looked_at_as_well() -> None:
    words = ["ray", "job", "submit", "--address", "http://x:8265", "--", "weaksam", "run", "grid", "--dta", "x"]
    (mistake,) = mistakes(words, {})
    assert "--dta" in mistake

"""What holds ``cluster/`` against the code and the lock: checks, which yield faults, "file: what is wrong; expected …"."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.commands import mistakes, written
from tests.cluster.repository import LOADER, ROOT, Repository, walk

GPU = "nvidia.com/gpu"
PACKAGES = ("weaksam", "pipelines", "tune")
# Variables that other programs read: the container's runtime, its shell, uv, Ray and its launcher.
OF_OTHERS = {
    "HOME", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "UV_SYSTEM_PYTHON", "UV_COMPILE_BYTECODE", "UV_NO_CACHE",
    "RAY_AUTH_TOKEN", "RAY_HEAD_IP",
}  # fmt: skip

Faults = Iterator[str]
Check = Callable[[Repository], Faults]


def faults(repository: Repository, tmp: Path) -> list[str]:
    """Everything that is wrong; ``tmp`` takes the recipes that lie in ConfigMaps."""
    found = [fault for check in CHECKS for fault in check(repository)]
    return [*found, *commands_are_taken(repository, tmp)]


def no_python(repository: Repository) -> Faults:
    for name in repository.files:
        if name.endswith((".py", ".pyc", ".ipynb")):
            yield f"{name}: Python in cluster/; expected console commands alone"


def no_index_is_named(repository: Repository) -> Faults:
    for name in [*repository.files, ".dockerignore"]:
        if found := re.search(r"pypi|pythonhosted|index[-_]url|--extra-index|conda\b", repository.text(name), re.I):
            yield f"{name}: names {found[0]!r}; expected the builder's own package index"


def images_are_of_this_version(repository: Repository) -> Faults:
    for document in repository.documents:
        for image in document.found("image", "head_image", "worker_image"):
            name, _, tag = str(image).rpartition("/")[2].partition(":")
            if name == "weaksam" and tag != repository.tag:
                yield f"{document.file}: image {image}; expected the tag {repository.tag}"
            if not tag or tag in ("latest", "nightly"):
                yield f"{document.file}: image {image}; expected a fixed tag"
    for name in repository.files:
        for tag in re.findall(r"/weaksam:([\w.-]+\w)", repository.text(name)):
            if tag != repository.tag:
                yield f"{name}: weaksam:{tag}; expected weaksam:{repository.tag}"


def ray_is_the_locked_one(repository: Repository) -> Faults:
    for document in repository.documents:
        for version in document.found("rayVersion"):
            if version != repository.locked("ray"):
                yield f"{document.file}: rayVersion {version}; expected {repository.locked('ray')}, as requirements.lock"


def variables_are_read_by_somebody(repository: Repository) -> Faults:
    for document in repository.documents:
        for path, value in walk(document.body):
            if path[-1] != "env" or not isinstance(value, list):
                continue
            scripts = " ".join(map(str, document.found("args")))
            for name in (entry["name"] for entry in value):
                if not _is_read(name) and f"${name}" not in scripts:
                    yield f"{document.file}: variable {name}; expected one that the code reads"
    for name in repository.files:
        if name.endswith(("Dockerfile", ".md")):
            for variable in _variables(repository.text(name)):
                if not _is_read(variable):
                    yield f"{name}: variable {variable}; expected one that the code reads"


def _variables(text: str) -> list[str]:
    code = text if "FROM " in text else " ".join(re.findall(r"```.*?```|`[^`]+`", text, re.DOTALL))
    return sorted(set(re.findall(r"\b[A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+\b", code)))


def _is_read(variable: str) -> bool:
    return variable in OF_OTHERS or variable in _words_of_code()


@cache
def _words_of_code() -> frozenset[str]:
    texts = (path.read_text(encoding="utf-8") for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return frozenset(word for text in texts for word in re.findall(r"\b[A-Z][A-Z0-9_]+\b", text))


def exit_codes_are_the_codes(repository: Repository) -> Faults:
    from pipelines.bringing import TooManyDroppedError

    code = TooManyDroppedError.exit_code
    for document in repository.documents:
        for rule in document.found("onExitCodes"):
            if rule["values"] != [code]:
                yield f"{document.file}: exit codes {rule['values']}; expected [{code}], of too many dropped images"
    for name in repository.files:
        for line in repository.text(name).splitlines():
            said = re.search(r"dropped more\b.*exit code (\d+)|exit code (\d+)\b.*dropped more\b", line)
            if said and int(said[1] or said[2]) != code:
                yield f"{name}: exit code {said[1] or said[2]} of too many dropped images; expected {code}"


def names_are_there(repository: Repository) -> Faults:
    """Accounts, secrets and ConfigMaps that pods name are in a manifest, or a command beside it makes them."""
    made = {(document.kind, document.name) for document in repository.documents}
    text = "\n".join(map(repository.text, repository.files))
    made |= {("ConfigMap", name) for name in re.findall(r"kubectl create configmap ([\w-]+)", text)}
    made |= {("Secret", name) for name in re.findall(r"kubectl create secret generic ([\w-]+)", text)}
    fields = {
        "serviceAccountName": ("ServiceAccount", None),
        "configMap": ("ConfigMap", "name"),
        "configMapKeyRef": ("ConfigMap", "name"),
        "secretKeyRef": ("Secret", "name"),
        "secret": ("Secret", "secretName"),
    }
    for document in repository.documents:
        for path, value in walk(document.body):
            kind, inner = fields.get(path[-1], ("", None))
            name = value.get(inner) if inner and isinstance(value, dict) else value
            if kind and (kind, name) not in made:
                yield f"{document.file}: no {kind} {name}; expected one of a manifest, or a `kubectl create` that makes it"
    for document in repository.of_kind("Role"):
        jobs = {("rayjobs", job.name) for job in repository.of_kind("RayJob")}
        for rule in document.body["rules"]:
            named = {(kind, name) for kind in rule["resources"] for name in rule.get("resourceNames", [])}
            if named - jobs:
                yield f"{document.file}: rights to {sorted(named - jobs)}; expected to {sorted(jobs)}"


def mounted(repository: Repository) -> dict[str, str]:
    """Files that pods find in ConfigMaps of the manifests: path in the pod -> content."""
    data = {document.name: document.body.get("data", {}) for document in repository.of_kind("ConfigMap")}
    found = {}
    for document in repository.documents:
        for pod in (value for _, value in walk(document.body) if isinstance(value, dict) and "containers" in value):
            maps = {one["name"]: one.get("configMap", {}).get("name") for one in pod.get("volumes", [])}
            for container in pod["containers"]:
                for mount in container.get("volumeMounts", []):
                    for key, content in data.get(maps.get(mount["name"]), {}).items():
                        found[f"{mount['mountPath']}/{key}"] = content
    return found


def commands_are_taken(repository: Repository, tmp: Path) -> Faults:
    """Every command of ours and of Ray's is one that the real command line takes, with recipes and settings that exist."""
    recipes = {}
    for number, (place, content) in enumerate(mounted(repository).items()):
        recipes[place] = tmp / f"mounted-{number}.yaml"
        recipes[place].write_text(content, encoding="utf-8")
    for name, words in written(repository):
        yield from (f"{name}: {mistake}" for mistake in mistakes(words, recipes))
        for word in words:
            if word.startswith("cluster/") and not (repository.root / word).exists():
                yield f"{name}: `{' '.join(words)}` names {word}; expected a file that is there"


def nights_are_the_same(repository: Repository) -> Faults:
    """What KubeRay starts every night is what is started by hand, and the morning looks at its run folder."""
    (job,) = repository.of_kind("RayJob")
    for cron in repository.of_kind("RayCronJob"):
        if cron.body["spec"]["jobTemplate"] != job.body["spec"]:
            yield f"{cron.file}: its jobTemplate differs; expected the spec of {job.file}"
    words = shlex.split(job.body["spec"]["entrypoint"])
    asked = dict(pairwise(words))
    run, allowed = asked.get("--out"), asked.get("--max-dropped")
    for document in repository.of_kind("CronJob"):
        for script in (str(script) for args in document.found("args") for script in args):
            for place, dropped in re.findall(r"weaksam status (\S+).*--max-dropped (\S+)", script):
                if (place, dropped) != (run, allowed):
                    yield f"{document.file}: looks at {place}, {dropped}; expected {run}, {allowed}, as {job.file}"
        if document.body["spec"].get("concurrencyPolicy") != "Forbid":
            yield f"{document.file}: concurrencyPolicy {document.body['spec'].get('concurrencyPolicy')}; expected Forbid"
    for cron in repository.of_kind("RayCronJob", "CronJob"):
        if "timeZone" not in cron.body["spec"]:
            yield f"{cron.file}: no timeZone; expected one, so that a schedule means the same everywhere"


def heads_take_no_work(repository: Repository) -> Faults:
    for document in repository.documents:
        for head in document.found("headGroupSpec"):
            if head["rayStartParams"].get("num-cpus") != "0":
                yield f"{document.file}: the head's num-cpus {head['rayStartParams'].get('num-cpus')!r}; expected '0'"
        if document.kind == "launcher":
            head = document.body["available_node_types"][document.body["head_node_type"]]
            if head["resources"].get("CPU") != 0:
                yield f"{document.file}: the head's resources {head['resources']}; expected {{CPU: 0}}"
            if _is_spot(head["node_config"]):
                yield f"{document.file}: the head is a spot instance; expected one on demand, for the driver lives there"


def workers_are_spot_from_zero(repository: Repository) -> Faults:
    for document in repository.of_kind("launcher"):
        for name, node in document.body["available_node_types"].items():
            if name == document.body["head_node_type"]:
                continue
            if node.get("min_workers") != 0:
                yield f"{document.file}: {name}.min_workers {node.get('min_workers')}; expected 0"
            if not _is_spot(node["node_config"]):
                yield f"{document.file}: {name} is on demand; expected spot instances"
    for document in repository.of_kind("RayJob", "RayCronJob"):
        for group in (group for groups in document.found("workerGroupSpecs") for group in groups):
            yield from (f"{document.file}: {group['groupName']}: {fault}" for fault in _group_faults(group))


def _is_spot(node_config: dict[str, Any]) -> bool:
    return bool(re.search(r"spot|preemptible", json.dumps(node_config), re.IGNORECASE))


def _group_faults(group: dict[str, Any]) -> Faults:
    pod = group["template"]["spec"]
    limits = pod["containers"][0]["resources"].get("limits", {})
    tolerated = {toleration.get("key") for toleration in pod.get("tolerations", [])}
    if group.get("minReplicas") != 0:
        yield f"minReplicas {group.get('minReplicas')}; expected 0"
    if limits.get(GPU) != 1:
        yield f"{GPU} limit {limits.get(GPU)}; expected 1"
    if GPU not in tolerated:
        yield f"tolerates {sorted(map(str, tolerated))}; expected {GPU} among them, as GPU nodes are tainted"
    if not re.search(r"spot", json.dumps([pod.get("affinity"), pod.get("nodeSelector")]), re.IGNORECASE):
        yield "goes to any node; expected a selector of spot nodes"
    mounts = {mount["mountPath"] for mount in pod["containers"][0].get("volumeMounts", [])}
    if "/cache" not in mounts:
        yield "mounts nothing at /cache; expected the node's cache of weights"


def clusters_ask_for_a_token(repository: Repository) -> Faults:
    for document in repository.of_kind("RayJob", "RayCronJob"):
        for spec in document.found("rayClusterSpec"):
            if spec.get("authOptions") != {"mode": "token"}:
                yield f"{document.file}: authOptions {spec.get('authOptions')}; expected {{mode: token}}"
    for document in repository.of_kind("launcher"):
        if not any(path.endswith("/.ray/auth_token") for path in document.body.get("file_mounts", {})):
            yield f"{document.file}: no file_mounts of the token; expected .ray/auth_token in the container's home"


def nothing_is_open(repository: Repository) -> Faults:
    for document in repository.of_kind("launcher"):
        for text in map(str, [*document.found("CidrIp"), *document.body["head_start_ray_commands"]]):
            if "0.0.0.0" in text:
                yield f"{document.file}: {text}; expected ssh alone, from addresses of yours"
    for document in repository.of_kind("NetworkPolicy"):
        for rule in document.body["spec"]["ingress"]:
            if not rule.get("from"):
                yield f"{document.file}: an ingress rule for everybody; expected pods or namespaces in `from`"


def pods_have_few_rights(repository: Repository) -> Faults:
    for document in repository.documents:
        for _, pod in walk(document.body):
            if not (isinstance(pod, dict) and isinstance(pod.get("containers"), list)):
                continue
            if pod.get("securityContext", {}).get("runAsNonRoot") is not True:
                yield f"{document.file}: {document.kind} {document.name} may run as root; expected runAsNonRoot: true"
            for container in [*pod.get("initContainers", []), *pod["containers"]]:
                security, resources = container.get("securityContext", {}), container.get("resources", {})
                if security.get("allowPrivilegeEscalation") is not False or security["capabilities"]["drop"] != ["ALL"]:
                    yield f"{document.file}: {container['name']} may gain rights; expected none, and all capabilities dropped"
                if "memory" not in resources.get("limits", {}):
                    yield f"{document.file}: {container['name']} has no limit of memory; expected one"


def everything_is_in_one_namespace(repository: Repository) -> Faults:
    (namespace,) = repository.of_kind("Namespace")
    for document in repository.documents:
        if document.kind not in ("launcher", "Namespace"):
            given = document.body["metadata"].get("namespace")
            if given != namespace.name:
                yield f"{document.file}: {document.kind} {document.name} in {given}; expected the namespace {namespace.name}"


def the_image_is_made_from_the_lock(repository: Repository) -> Faults:
    name = "cluster/Dockerfile"
    text = repository.text(name)
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    for image in re.findall(r"^FROM (\S+)", lines, re.MULTILINE):
        version = re.fullmatch(r"python:(\d+)\.(\d+)\.\d+-slim-\w+", image)
        if version is None or not (3, 11) <= (int(version[1]), int(version[2])) < (3, 14):
            yield f"{name}: FROM {image}; expected a fixed python:3.11 to 3.13 image"
    uv = re.search(r"^UV_VERSION := (.+)$", repository.text("Makefile"), re.MULTILINE)
    if not uv or f"uv=={uv[1]}" not in lines:
        yield f"{name}: another uv; expected uv=={uv and uv[1]}, as the Makefile"
    for install in re.findall(r"uv pip install (.+)", lines):
        if "/build/source" not in install and "--constraints /build/requirements.lock" not in install:
            yield f"{name}: uv pip install {install}; expected --constraints /build/requirements.lock"
        for package in re.findall(r"(?<= )(?!-)[a-z][\w-]*(?![\w./=-])", install.partition("requirements.lock")[2]):
            if package not in _extras(repository) and not repository.locked(package):
                yield f"{name}: package {package}; expected one of requirements.lock"
    for extra in re.findall(r"--extra (\S+)", lines):
        if extra not in _extras(repository):
            yield f"{name}: extra {extra}; expected one of {_extras(repository)}"
    if not re.search(r"^USER [1-9]\d*:[1-9]\d*$", lines, re.MULTILINE):
        yield f"{name}: no USER of its own; expected one that is not root, by number"
    for source in re.findall(r"type=bind,source=(\S+?),", lines):
        if f"!{source}" not in repository.text(".dockerignore").splitlines():
            yield f".dockerignore: leaves {source} out; expected it in, as {name} reads it"
    for package in (*PACKAGES, "recipes"):
        if f"!{package}" not in repository.text(".dockerignore").splitlines():
            yield f".dockerignore: leaves {package} out; expected it in, as it is installed"


def _extras(repository: Repository) -> list[str]:
    section = repository.text("pyproject.toml").partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    return re.findall(r"^([a-z]+) = \[", section, re.MULTILINE)


def symptoms_are_what_is_said(repository: Repository) -> Faults:
    """The first column of the table of symptoms is in the code's own words; … stands for what varies."""
    name = "cluster/README.md"
    table = repository.text(name).partition("## Symptoms")[2].partition("\n## ")[0]
    for row in re.findall(r"^\| (.+?) \|", table, re.MULTILINE)[2:]:
        for quoted in re.findall(r"`([^`]+)`", row):
            for part in (part.strip() for part in quoted.split("…")):
                if len(part) > 3 and not any(part in text for text in _texts_of_code()):
                    yield f"{name}: symptom {part!r}; expected what the code says"


@cache
def _texts_of_code() -> tuple[str, ...]:
    found = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                    found.add(node.value)
    return tuple(found)


def manifests_are_named_in_the_page(repository: Repository) -> Faults:
    page = repository.text("cluster/README.md")
    for name in repository.files:
        if not name.endswith(".md") and Path(name).name not in page:
            yield f"cluster/README.md: says nothing of {name}; expected what it is for"
    named = [*re.findall(r"\]\(([^)#]+)", page), *re.findall(r"`([\w./-]+\.(?:yaml|lock|md))`", page)]
    for file in (file for file in named if "://" not in file):
        if not any((root / base / file).exists() for root in (repository.root, ROOT) for base in ("cluster", ".")):
            yield f"cluster/README.md: names {file}; expected a file that is there, from this folder or the root"


def yaml_says_nothing_twice(repository: Repository) -> Faults:
    for name in (name for name in repository.files if name.endswith(".yaml")):
        for node in yaml.compose_all(repository.text(name), LOADER):
            yield from (f"{name}: key {key!r} stands twice; expected once" for key in _doubled(node))


def _doubled(node: Any) -> Iterator[str]:
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        yield from sorted({key for key in keys if keys.count(key) > 1})
        for _, value in node.value:
            yield from _doubled(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _doubled(value)


CHECKS: tuple[Check, ...] = (
    no_python,
    no_index_is_named,
    images_are_of_this_version,
    ray_is_the_locked_one,
    variables_are_read_by_somebody,
    exit_codes_are_the_codes,
    names_are_there,
    nights_are_the_same,
    heads_take_no_work,
    workers_are_spot_from_zero,
    clusters_ask_for_a_token,
    nothing_is_open,
    pods_have_few_rights,
    everything_is_in_one_namespace,
    the_image_is_made_from_the_lock,
    symptoms_are_what_is_said,
    manifests_are_named_in_the_page,
    yaml_says_nothing_twice,
)

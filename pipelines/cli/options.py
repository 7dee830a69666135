"""The arguments and options that verbs share, and what verbs that work were asked for.

A verb takes a request as one parameter; ``spread`` makes each of its fields an option of the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_type_hints

import typer

from pipelines.engine.stage import Options
from pipelines.recipe.model import Recipe, shipped_recipes
from pipelines.store.explain import in_the_way
from pipelines.store.lock import WAIT_S
from weaksam.errors import ConfigError
from weaksam.io.files import absolute, join, open_fs

RecipeArgument = Annotated[
    str,
    typer.Argument(help="A recipe file, a shipped recipe's name (`weaksam recipes`), or the folder of an earlier run."),
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, local or s3://….")]
DataOption = Annotated[
    str,
    typer.Option(
        "--data", help="Where the images are: a folder, s3://…, or shapes: for drawings; default: the recipe's."
    ),
]
OutOption = Annotated[str, typer.Option("--out", help="The run folder, local or s3://…; default runs/RECIPE.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change one value of the recipe; may be repeated.")
]
LimitOption = Annotated[
    int, typer.Option("--limit", min=0, help="Only the first N images per split in hash order, under OUT/preview-N.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what is done and what would run, and do nothing.")]
RetryOption = Annotated[bool, typer.Option("--retry-dropped", help="Try the images again that were dropped before.")]
TrainAgainOption = Annotated[
    bool,
    typer.Option(
        "--train-again",
        help="Train on the images of now, also where the recipe says `train_again: asked` (preset nightly).",
    ),
]
MaxDroppedOption = Annotated[
    str,
    typer.Option(
        "--max-dropped",
        help="More dropped images than this (a count, or a share, which rounds up) are a failure: exit code 3, or a failed "
        "trial of a sweep.",
    ),
]
AddressOption = Annotated[
    str, typer.Option("--address", help="Ray cluster to run on; default RAY_ADDRESS, else this machine.")
]
WaitOption = Annotated[
    float,
    typer.Option(
        "--wait",
        min=0,
        metavar="SECONDS",
        help="Wait this long for a run that another process holds; the default outlasts the lock of a machine that was lost.",
    ),
]
PrintRecipeOption = Annotated[
    bool, typer.Option("--print-recipe", help="Print the merged recipe with its sources, and stop.")
]
VerboseOption = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="-v: what each stage does; -vv: everything.")
]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What every verb that works is asked for: where it reads and writes, and how."""

    data: DataOption = ""
    out: OutOption = ""
    overrides: SetOption = None
    dry_run: DryRunOption = False
    max_dropped: MaxDroppedOption = "1%"
    address: AddressOption = ""
    verbose: VerboseOption = 0

    @property
    def options(self) -> Options:
        """What of it goes to the stages."""
        return Options(dry_run=self.dry_run, max_dropped=self.max_dropped, address=self.address)


@dataclass(frozen=True, kw_only=True)
class RecipeRequest(Request):
    """What verbs that run the stages of one recipe are asked for."""

    recipe: RecipeArgument
    limit: LimitOption = 0
    wait: WaitOption = WAIT_S

    @property
    def options(self) -> Options:
        """See ``Request``."""
        return replace(super().options, wait_s=self.wait)

    @property
    def values(self) -> list[str]:
        """Every ``a.b=c`` that lies over the recipe's file."""
        return [*(self.overrides or []), *([f"data.limit={self.limit}"] if self.limit else [])]

    def run_uri(self, recipe: Recipe) -> str:
        """Return the run folder, absolute: actors and training workers run in folders of their own.

        Raises:
            ConfigError: the recipe names no data, or something else stands where the folder would be.
        """
        if not recipe.data.uri:
            raise ConfigError(f"recipe {recipe.name} names no data; add --data FOLDER, s3://… or shapes:")
        out = absolute(self.out or join("runs", recipe.name))
        if found := in_the_way(out):
            raise ConfigError(f"--out: {found}; name a folder")
        return join(out, f"preview-{self.limit}") if self.limit else out


@dataclass(frozen=True, kw_only=True)
class RunRequest(RecipeRequest):
    """What ``run`` and the verbs of the stages are asked for."""

    retry_dropped: RetryOption = False
    train_again: TrainAgainOption = False
    print_recipe: PrintRecipeOption = False

    @property
    def options(self) -> Options:
        """See ``Request``."""
        return replace(super().options, retry_dropped=self.retry_dropped)

    def of_run_folder(self) -> RunRequest:
        """Return the request for the recipe that lies in a run folder, and for that folder, if it names one."""
        if not is_run_folder(self.recipe):
            return self
        return replace(self, recipe=join(self.recipe, "recipe.yaml"), out=self.out or self.recipe)


def is_run_folder(name: str) -> bool:
    """Whether what stands for a recipe is the folder of an earlier run."""
    if name in shipped_recipes() or name.endswith((".yaml", ".yml")):
        return False
    fs, path = open_fs(join(name, "recipe.yaml"))
    return bool(fs.exists(path))


def spread(verb: Callable[..., None]) -> Callable[..., None]:
    """Return a verb that takes each field of its request (the parameter whose type is a dataclass) as an option of its own."""
    hints = get_type_hints(verb, include_extras=True)
    name = next(name for name, hint in hints.items() if is_dataclass(hint))
    request = hints[name]
    of_fields = get_type_hints(request, include_extras=True)
    parameters = list[Parameter]()
    for parameter in signature(verb).parameters.values():
        if parameter.name != name:
            parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[parameter.name]))
            continue
        for field in fields(request):
            default = Parameter.empty if field.default is MISSING else field.default
            annotation = of_fields[field.name]
            parameters.append(Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation))

    @wraps(verb)
    def spread_out(**given: Any) -> None:
        asked = request(**{field.name: given.pop(field.name) for field in fields(request)})
        verb(**{name: asked}, **given)

    spread_out.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(spread_out)["__signature__"] = Signature(parameters)  # what typer reads
    return spread_out

"""The console commands that manifests and pages name, and whether the real command lines take them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tests.cluster.repository import Repository

PROGRAMS = ("weaksam", "ray")
_IMAGE = re.compile(r"\S+/weaksam:\S+|IMAGE|\$IMAGE")  # what stands before a command that a container runs
_BEFORE = ("--", "if", "!", "exec", "-c")  # and what else does


def written(repository: Repository) -> Iterator[tuple[str, list[str]]]:
    """Yield the file and the words of every command of ours and of Ray's in ``cluster/``."""
    for name in repository.files:
        text = repository.text(name)
        for code in _code(text) if name.endswith(".md") else [*_in_backticks(text), *_in_manifest(repository, name)]:
            yield from ((name, words) for words in commands(code))


def commands(code: str) -> Iterator[list[str]]:
    """Yield the words of each command of ours and of Ray's in some shell code, also of those that others start."""
    for line in code.replace("\\\n", " ").splitlines():
        for words in _simple_commands(line):
            for word in words:
                if re.match(rf"({'|'.join(PROGRAMS)}) ", word):  # in quotes, for another shell
                    yield from commands(word)
            for position, word in enumerate(words):
                before = words[position - 1] if position else "--"
                if word in PROGRAMS and (before in _BEFORE or _IMAGE.fullmatch(before)):
                    yield words[position:]
                    break  # what follows `--` is the command's own


def _simple_commands(line: str) -> Iterator[list[str]]:
    """Yield the words of a line between `;`, `&&`, `|` and the like, without redirections and variables set before."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    try:
        tokens = [*lexer, ";"]
    except ValueError:  # prose with an apostrophe
        return
    redirected = False
    for token in tokens:
        if redirected:
            redirected = False
        elif set(token) <= set("<>"):
            redirected = True
        elif set(token) <= set(";&|()"):
            if words:
                yield words
            words = []
        elif words or not re.fullmatch(r"[A-Z_]+=.*", token):
            words.append(token)


def _code(page: str) -> list[str]:
    fences = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    prose = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    return [*fences, *(" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose))]


def _in_backticks(text: str) -> list[str]:
    comments = " ".join(re.findall(r"#(?!!) ?(.*)", text))
    return [*re.findall(r"`([^`]+)`", comments), *re.findall(r"^# {2,}(.+)", text, re.MULTILINE)]


def _in_manifest(repository: Repository, name: str) -> list[str]:
    if name.endswith("Dockerfile"):
        return [
            " ".join(re.findall(r'"([^"]+)"', line)) for line in re.findall(r"^CMD (.+)", repository.text(name), re.M)
        ]
    documents = [document for document in repository.documents if document.file == name]
    texts = [value for document in documents for key in ("entrypoint", "args") for value in document.found(key)]
    texts += [line for document in documents for path, line in _shell_lists(document.body)]
    return [line for text in texts for line in (text if isinstance(text, list) else [text])]


def _shell_lists(body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the commands of a launcher's file."""
    yield from ((key, line) for key, value in body.items() if key.endswith("_commands") for line in value)


def mistakes(words: list[str], recipes: dict[str, Path]) -> Iterator[str]:
    """Yield what the program would refuse of a command, and what it names that is not there.

    Args:
        words: of the command, the program first.
        recipes: those that are neither shipped nor in a bucket: where a pod finds each, and the file.
    """
    words = [word for word in words if word != "…"]
    try:
        context, rest = _parsed(words)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        yield f"`{' '.join(words)}`: {error.format_message()}"
        return
    if context is None:
        return
    if words[0] == "ray":
        yield from mistakes(list(rest), recipes) if rest and rest[0] in PROGRAMS else ()
        return
    yield from (f"`{' '.join(words)}`: {mistake}" for mistake in _wrong_values(context, recipes))


def _parsed(words: list[str]) -> tuple[Any, tuple[str, ...]]:
    """Parse a command as its program does, and run nothing. A verb that stands alone is a name in prose, and taken."""
    command, rest, path = _program(words[0]), words[1:], words[:1]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name, rest = rest[0], rest[1:]
        if name not in command.commands:
            command.resolve_command(command.make_context(" ".join(path), [name, *rest]), [name, *rest])  # raises
        command, path = command.commands[name], [*path, name]
    if hasattr(command, "commands") or not rest:
        return None, ()
    context = command.make_context(" ".join(path), list(rest), resilient_parsing="--help" in rest)
    return context, tuple(context.params.get("entrypoint") or ())


def _wrong_values(context: Any, recipes: dict[str, Path]) -> Iterator[str]:
    from pipelines.bringing import dropped_allowed
    from pipelines.recipe.model import shipped_recipes
    from weaksam.errors import ConfigError

    given, named = context.params, context.params.get("recipe")
    if named and named not in recipes and named not in shipped_recipes():
        yield f"no recipe {named}; expected a shipped one, or a key of a ConfigMap that is mounted there"
        return
    if named and (told := _refused(str(recipes.get(named, named)), tuple(given.get("overrides") or ()))):
        yield told
    try:
        dropped_allowed(given.get("max_dropped") or "0", 0)
    except ConfigError as error:
        yield str(error)


@cache
def _refused(recipe: str, settings: tuple[str, ...]) -> str:
    """Return why a recipe with some settings is refused, "" if it is not."""
    from pipelines.recipe.model import load_recipe
    from weaksam.errors import ConfigError

    try:
        load_recipe(recipe, settings)
    except ConfigError as error:
        return str(error)
    return ""


@cache
def _program(name: str) -> Any:
    if name == "ray":
        from ray.scripts.scripts import cli

        return cli
    from typer.main import get_command

    from pipelines.cli.app import app

    return get_command(app)

"""What keeps a file, a function and a group of options small enough to be read at once."""

import ast
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

import maskrcnn
from maskrcnn import recipes
from maskrcnn.training.settings import Settings

SOURCE = Path(maskrcnn.__file__).parent
FILES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))


def arguments(function: ast.FunctionDef) -> int:
    """Number of arguments, without self and cls."""
    given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in given)


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith("kernels/")])
def test_files_and_functions_are_short(file):
    text = (SOURCE / file).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in functions if arguments(node) > 8] == []


def groups(options):
    yield options
    for field in fields(options):
        if is_dataclass(value := getattr(options, field.name)):
            yield from groups(value)


@pytest.mark.parametrize(
    "options", [Settings(), *(recipes.options_of_recipe(name) for name in recipes.RECIPES)]
)
def test_groups_of_options_are_small(options):
    for group in groups(options):
        assert len(fields(group)) <= 12, type(group).__name__

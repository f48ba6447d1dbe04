"""Imports point one way: configs and data know nothing of the model, the model nothing of either."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FOLDERS = ("configs", "data_pipelines", "cover_jax")
FILES = sorted(path.relative_to(ROOT) for folder in FOLDERS for path in ROOT.glob(f"{folder}/**/*.py"))
ABOVE = ("train", "main", "evaluate", "study")  # what nothing below the loop may import


def imported(path: pathlib.Path) -> set[str]:
    """Dotted names of all that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def forbidden(path: pathlib.Path) -> tuple[str, ...]:
    """Prefixes that this file may not import."""
    if path.parts[0] == "configs":
        return ("cover_jax", "data_pipelines", "tests", "jax", "flax", "tensorflow")
    if path.parts[0] == "data_pipelines":
        return ("cover_jax", "configs", "tests", "jax", "flax", "optax", "orbax")
    if path.parts[:2] == ("cover_jax", "models"):
        return ("tensorflow", "configs", "optax", "orbax", "data_pipelines", "clu", "tests",
                *(f"cover_jax.{p.stem}" for p in ROOT.glob("cover_jax/*.py")))  # fmt: skip
    common = ("tests",) if path.name == "saved_model.py" else ("tensorflow", "tensorflow_datasets", "tests")
    orbax = () if path.name == "checkpoint.py" else ("orbax",)
    above = () if {path.stem, path.parent.name} & set(ABOVE) else tuple(f"cover_jax.{name}" for name in ABOVE)
    return (*common, *orbax, *above)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_one_way(path):
    wrong = {n for n in imported(path) for p in forbidden(path) if n == p or n.startswith(f"{p}.")}
    assert not wrong, f"{path} imports {sorted(wrong)}"


def test_the_rule_sees_imports():
    assert {"jax", "cover_jax.train"} <= imported(pathlib.Path("cover_jax/main.py"))

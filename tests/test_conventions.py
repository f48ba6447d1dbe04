"""What no linter checks: the size of folders and of functions, and that importing a package loads nothing else."""

import ast
import collections
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("configs", "cover_jax", "data_pipelines")
MAX_FILES = 10  # code files in a folder; configs are values
MAX_LINES = 60  # of a function


def python_files(*folders: str) -> list[pathlib.Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def test_a_folder_has_few_code_files():
    paths = [path for path in python_files("cover_jax", "data_pipelines") if path.name != "__init__.py"]
    count = collections.Counter(str(path.parent.relative_to(ROOT)) for path in paths)
    assert count["cover_jax/models"] > 1  # files were found
    assert {folder: files for folder, files in count.items() if files > MAX_FILES} == {}


def test_functions_are_short():
    long = {}
    for path in python_files(*PACKAGES, "tests"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > MAX_LINES:
                    long[f"{path.relative_to(ROOT)}:{node.name}"] = lines
    assert long == {}


def test_importing_a_package_loads_nothing_else():
    """A command that is given a wrong config says so before JAX and TensorFlow are loaded."""
    packages = sorted(".".join(path.parent.relative_to(ROOT).parts) for path in python_files(*PACKAGES)
                      if path.name == "__init__.py")  # fmt: skip
    assert "cover_jax.models.kernels" in packages
    code = f"import {', '.join(packages)}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.partition(".")[0] in PACKAGES} == set(packages)
    assert loaded.isdisjoint({"clu", "flax", "jax", "numpy", "optax", "orbax", "tensorflow"})


def test_an_ignored_type_error_has_its_code_and_its_reason():
    mark = "type: " + "ignore"
    lines = [
        line for path in python_files(*PACKAGES, "tests") for line in path.read_text().splitlines() if mark in line
    ]
    assert [
        line for line in lines if not re.search(mark + r"\[[a-z, -]+\]  # \S+", line) and 'mark = "' not in line
    ] == []

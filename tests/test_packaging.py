"""What is installed: the packages' requirements, the version that all name, and what continuous integration runs on."""

import importlib.metadata
import pathlib
import re
import subprocess
import sys
import tomllib

import grimp
import yaml
from packaging.requirements import Requirement

import cover_jax

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("configs", "cover_jax", "data_pipelines")
OPTIONAL = {"apache_beam", "wandb"}  # extras, imported where they are asked for
WITH_OTHERS = {"jaxlib": "jax"}  # what another requirement cannot do without


def test_what_is_imported_is_required():
    """The environment of tests has more packages than an installation."""
    graph = grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)
    imported = {module.partition(".")[0] for module in graph.modules} - set(PACKAGES) - sys.stdlib_module_names
    assert {"jax", "numpy"} <= imported
    requirements = map(Requirement, importlib.metadata.requires("cover-jax"))
    required = {normalize(one.name) for one in requirements if not one.marker or one.marker.evaluate({"extra": ""})}
    distributions = importlib.metadata.packages_distributions()
    missing = {
        name
        for name in imported - OPTIONAL
        if not {normalize(found) for found in distributions[WITH_OTHERS.get(name, name)]} & required
    }
    assert not missing


def normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_version_is_one():
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == cover_jax.__version__, done.stderr
    newest = re.search(r"^## (\d.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert re.fullmatch(rf"{re.escape(cover_jax.__version__)} \(20\d\d-\d\d-\d\d\)", newest)


def test_continuous_integration_runs_the_same_script_on_each_python():
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["check"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert job["steps"][-1] == {"run": ".ci/run", "env": {"PYTHON": "python${{ matrix.python }}"}}
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert (tools["mypy"]["python_version"], tools["ruff"]["target-version"]) == ("3.11", "py311")
    assert 'python_requires=">=3.11"' in (ROOT / "setup.py").read_text()

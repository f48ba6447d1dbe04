"""The import contract of pyproject.toml holds, and each part of it turns red for a wrong import."""

import json
import pathlib
import shutil
import subprocess
import sys
import tomllib

import grimp
import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("configs", "cover_jax", "data_pipelines")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
CONTRACTS = {contract["id"]: contract for contract in PROJECT["importlinter"]["contracts"]}

# (contract, file, a wrong import in it). At least one per contract; a file that does not exist is a new module.
WRONG = [
    ("packages", "data_pipelines/files.py", "import cover_jax.errors"),
    ("packages", "data_pipelines/files.py", "import configs.common"),
    ("packages", "cover_jax/errors.py", "import configs.common"),
    ("cover_jax", "cover_jax/checkpoint/saver.py", "from cover_jax.training import loop"),
    ("cover_jax", "cover_jax/predict/explain.py", "from cover_jax.report import chart"),
    ("cover_jax", "cover_jax/parallel/hosts.py", "def late():\n    import cover_jax.main"),
    ("cover_jax", "cover_jax/training/loop.py", "from cover_jax.study import design"),
    ("cover_jax", "cover_jax/a_new_folder/__init__.py", ""),
    ("cover_jax", "cover_jax/a_new_module.py", ""),
    ("data_pipelines", "data_pipelines/stream/decode.py", "from data_pipelines.prepare import schema"),
    ("data_pipelines", "data_pipelines/a_new_folder/__init__.py", ""),
    ("models", "cover_jax/models/attention.py", "from cover_jax.models import timesformer"),
    ("models", "cover_jax/models/a_new_module.py", ""),
    ("checkpoint", "cover_jax/checkpoint/layout.py", "from cover_jax.checkpoint import restore"),
    ("stream", "data_pipelines/stream/decode.py", "from data_pipelines.stream import pipeline"),
    ("circles", "cover_jax/report/chart.py", "from cover_jax.report import page"),
    ("circles", "data_pipelines/media/picture.py", "from data_pipelines.media import media_file"),
    ("circles", "configs/common.py", "from configs import demo"),
    ("configs", "configs/demo.py", "from cover_jax.config import checks"),
    ("configs", "configs/studies/demo.py", "from cover_jax.models import variants"),
    ("configs", "configs/demo.py", "from data_pipelines import catalog"),
    ("light_configs", "configs/demo.py", "import jax.numpy as jnp"),
    ("light_configs", "configs/ablations.py", "import flax"),
    ("light_configs", "cover_jax/config/schema.py", "import tensorflow"),
    ("models_alone", "cover_jax/models/cover.py", "from cover_jax.errors import ConfigError"),
    ("models_alone", "cover_jax/models/cover.py", "import optax"),
    ("models_alone", "cover_jax/models/heads.py", "from orbax import checkpoint"),
    ("models_alone", "cover_jax/models/kernels/divided_attention.py", "import tensorflow as tf"),
    ("models_alone", "cover_jax/models/pretrained/loader.py", "from data_pipelines import files"),
    ("models_alone", "cover_jax/models/variants.py", "from clu import metric_writers"),
    ("no_jax", "data_pipelines/output/html.py", "import jax"),
    ("no_jax", "data_pipelines/media/video.py", "from flax import nnx"),
    ("no_jax", "data_pipelines/stream/mixture.py", "import optax"),
    ("no_jax", "data_pipelines/stream/records.py", "import orbax.checkpoint"),
    ("tests", "configs/demo.py", "import tests"),
    ("tests", "cover_jax/errors.py", "from tests.helpers import small"),
    ("tests", "data_pipelines/files.py", "from tests.helpers import small"),
    ("runs", "cover_jax/plan/compiler.py", "from cover_jax.training import loop"),
    ("runs", "cover_jax/predict/predictor.py", "from cover_jax.evaluation.evaluator import Evaluator"),
    ("orbax", "cover_jax/training/loop.py", "import orbax.checkpoint as ocp"),
    ("optax", "cover_jax/plan/compiler.py", "import optax"),
    ("clu", "cover_jax/report/curves.py", "from clu import metric_writers"),
    ("wandb", "cover_jax/training/progress.py", "import wandb"),
    ("tensorflow", "cover_jax/predict/predictor.py", "import tensorflow as tf"),
    ("tensorflow", "data_pipelines/stream/decode.py", "import tensorflow as tf"),
    ("tfds", "cover_jax/training/inputs.py", "import tensorflow_datasets as tfds"),
    ("beam", "data_pipelines/stream/records.py", "import apache_beam"),
]

# Runs where the copy is and nothing has imported the packages: import-linter looks for them as Python does.
CHECK = """
import contextlib, io, json, pathlib, sys
from importlinter.cli import lint_imports

def broken(*contract):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        failed = lint_imports(limit_to_contracts=contract, no_cache=True)
    assert not failed or "BROKEN" in out.getvalue(), out.getvalue()
    return bool(failed)

found = [broken()]
for contract, name, line in json.load(sys.stdin):
    path = pathlib.Path(name)
    before = path.read_text() if path.exists() else None
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{before or ''}\\n{line}\\n")
    found.append(broken(contract))
    path.unlink() if before is None else path.write_text(before)
    if path.name == "__init__.py":
        path.parent.rmdir()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Whether a contract is broken, in a copy of the packages: first with no wrong import, then with each of WRONG."""
    copy = tmp_path_factory.mktemp("copy")
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        (copy / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy / path.relative_to(ROOT))
    shutil.copy(ROOT / "pyproject.toml", copy)
    command = [sys.executable, "-c", CHECK]
    done = subprocess.run(command, cwd=copy, input=json.dumps(WRONG), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_imports_keep_the_contract(broken):
    assert not broken[0], "run `lint-imports`"


@pytest.mark.parametrize("number", range(len(WRONG)), ids=lambda i: f"{WRONG[i][0]}: {WRONG[i][1]}: {WRONG[i][2]}")
def test_a_wrong_import_breaks_its_contract(broken, number):
    assert broken[1 + number]


def test_every_contract_is_shown_to_break():
    assert {contract for contract, _, _ in WRONG} == set(CONTRACTS)


def test_contracts_name_modules_that_exist():
    """A contract on a module that was moved would hold whatever is imported."""
    graph = grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)
    keys = ("source_modules", "allowed_importers", "protected_modules", "forbidden_modules", "ancestors")
    named = {module for contract in CONTRACTS.values() for key in keys for module in contract.get(key, ())}
    unused = {"tests"}  # by nothing, as it has to be
    assert {name.removesuffix(".*") for name in named} - graph.modules <= unused


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("from jax._src import distributed", "TID251"),
        ("import jax\njax._src.distributed.global_state", "TID251"),
        ("from . import errors", "TID252"),
        ("from ..config import schema", "TID252"),
    ],
)
def test_ruff_refuses_internals_of_jax_and_relative_imports(line, rule):
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise"]
    name = "cover_jax/checkpoint/saver.py"
    done = subprocess.run(
        [*command, f"--stdin-filename={name}", "-"], cwd=ROOT, input=line, capture_output=True, text=True, timeout=60
    )
    assert rule in done.stdout

"""Nothing runs code from a file; what a run writes has no secrets of the machine, and others cannot write there."""

import ast
import os
import pathlib
import re
import stat

import pytest
import yaml

from cover_jax import errors
from tests.helpers import jobs

ROOT = pathlib.Path(__file__).parent.parent
UNPICKLER = "cover_jax/models/pretrained/torch_file.py"  # builds tensors and plain containers only
PICKLES = ("pickle", "cloudpickle", "dill", "joblib")
SECRETS = {
    "HF_TOKEN": "hf_secretsecretsecret", "GOOGLE_AUTH_TOKEN_FOR_TESTING": "ya29.secretsecret",
    "AWS_SECRET_ACCESS_KEY": "secretsecretkey",
}  # fmt: skip


def modules() -> list[tuple[str, ast.Module]]:
    paths = sorted(
        path for package in ("cover_jax", "data_pipelines", "configs") for path in (ROOT / package).rglob("*.py")
    )
    return [(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())) for path in paths]


def test_no_module_reads_pickles_or_runs_code_of_a_file():
    pickles, running = set(), []
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                pickles |= {
                    name for each in names if each.partition(".")[0] in ("pickle", "cloudpickle", "dill", "joblib")
                }
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if called in ("eval", "exec", "torch.load", "yaml.load", "marshal.load", "marshal.loads"):
                    running.append(f"{name}:{node.lineno} {called}")
                if given.get("allow_pickle", "False") != "False" or "trust_remote_code" in given:
                    running.append(f"{name}:{node.lineno} {given}")
    assert pickles == {UNPICKLER} and running == []


def test_continuous_integration_uses_actions_by_their_commit():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            used = [step["uses"] for step in job["steps"] if "uses" in step]
            assert used and [action for action in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action)] == []


@pytest.mark.slow
def test_what_a_run_writes_has_no_secrets_and_is_not_writable_by_others(tmp_path):
    home = tmp_path / "home_of_somebody"
    home.mkdir()
    start = jobs.Jobs(tmp_path).start
    before = os.umask(0)  # as in some containers
    try:
        with start(tmp_path / "run", env=(SECRETS | {"HOME": str(home)}).items()) as job:
            assert job.codes() == [errors.DONE], job.printed()
    finally:
        os.umask(before)
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(written) > 20
    for path in (*written, *job.outputs):
        content = path.read_bytes()
        assert not [name for name, secret in SECRETS.items() if secret.encode() in content], path
        assert str(home).encode() not in content, path
    written += [path for path in (tmp_path / "run").rglob("*") if path.is_dir()]
    assert not [path for path in written if path.stat().st_mode & stat.S_IWOTH]

"""The notebook as a newcomer runs it: every cell, on the embedded clips, without a network."""

import importlib.util
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types
import urllib.request
import zipfile

import pytest

from configs import common, datasets
from cover_jax.checkpoint import metadata, restore
from cover_jax.export import formats
from tests.data_pipelines import clips
from tests.models import small

nbclient = pytest.importorskip("nbclient", reason="pip install -e '.[notebook]' to run the notebook")
nbformat = pytest.importorskip("nbformat")
inputtransformer2 = pytest.importorskip("IPython.core.inputtransformer2")

NOTEBOOK = pathlib.Path(__file__).parent.parent / "launch" / "finetune_colab.ipynb"
NUM_LINES = 20  # of a cell
NAMES = ["jump", "run", "sit", "swim", "walk"]  # classes of the published model


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def printed(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def cell_with(cells, text: str):
    (cell,) = (cell for cell in cells if text in cell.source)
    return cell


def test_it_is_stored_without_outputs_and_in_short_cells(notebook):
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert len(cell.source.splitlines()) <= NUM_LINES, cell.source
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, cell.source


@pytest.fixture
def colab(monkeypatch):
    """Stands in for google.colab: uploads what is in `uploads`, notes in `mounted` where Drive goes."""
    module = types.ModuleType("google.colab")
    module.uploads, module.mounted = {}, []
    module.files = types.SimpleNamespace(upload=lambda: module.uploads)
    module.drive = types.SimpleNamespace(mount=module.mounted.append)
    monkeypatch.setitem(sys.modules, "google.colab", module)
    return module


@pytest.mark.parametrize("top", ["", "my clips/", "all/of them/"])
def test_an_uploaded_zip_is_found_whatever_folder_is_in_it(notebook, colab, tmp_path, top):
    archive = tmp_path / "clips.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in (f"{top}run/1.mp4", f"{top}sit/1.mp4", "__MACOSX/run/._1.mp4"):
            file.writestr(name, "")
    colab.uploads[str(archive)] = archive.read_bytes()
    settings = {"CLIPS": "upload", "WORK": tmp_path / "work", "INIT_FROM": "", "SAVE_TO": "", "shutil": shutil}
    exec(cell_with(notebook.cells, "in files.upload()").source, settings)
    assert sorted(path.name for path in settings["clips"].iterdir()) == ["run", "sit"]
    assert not colab.mounted


@pytest.mark.parametrize("setting", ["CLIPS", "INIT_FROM", "SAVE_TO"])
def test_drive_is_mounted_where_a_setting_needs_it(notebook, colab, tmp_path, setting):
    settings = {"CLIPS": "", "WORK": tmp_path, "INIT_FROM": "", "SAVE_TO": "", "shutil": shutil}
    exec(cell_with(notebook.cells, "in files.upload()").source, settings | {setting: "/content/drive/MyDrive/mine"})
    assert colab.mounted == ["/content/drive"]


SESSIONS = '[{"path": "fileId=https%3A//github.com/someone/cover-jax/blob/main/launch/finetune_colab.ipynb"}]'


def run_install(notebook, monkeypatch, *, sessions: str | None, settings: dict) -> str:
    """Runs the cells that install, where the project is not installed. Returns the package that pip is asked for."""
    asked, find = [], importlib.util.find_spec
    shell = types.SimpleNamespace(run_line_magic=lambda magic, line: asked.append((magic, line)))

    def urlopen(address, timeout):
        if sessions is None:
            raise OSError("no such server")
        assert address.endswith(":9000/api/sessions")
        return io.BytesIO(sessions.encode())

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cover_jax" else find(name))
    variables = {"REPOSITORY": "", "get_ipython": lambda: shell} | settings
    for text in ("def opened_from", "%pip install"):
        source = cell_with(notebook.cells, text).source
        exec(inputtransformer2.TransformerManager().transform_cell(source), variables)
    assert asked == [("pip", 'install --quiet "{package}"')]
    return variables["package"]


def test_the_project_is_installed_from_where_the_notebook_is_from(notebook, monkeypatch):
    package = run_install(notebook, monkeypatch, sessions=SESSIONS, settings={})
    assert re.fullmatch(r"cover-jax(\[\w+\])? @ git\+https://github.com/someone/cover-jax@main", package)
    given = {"REPOSITORY": "https://mine.example/cover.git"}
    assert run_install(notebook, monkeypatch, sessions=SESSIONS, settings=given).endswith(
        " @ git+" + given["REPOSITORY"]
    )


def test_the_project_is_installed_from_an_uploaded_wheel(notebook, monkeypatch, colab):
    colab.uploads["cover_jax-1-py3-none-any.whl"] = b""
    for sessions in (None, '[{"path": "fileId=1234"}]'):
        assert run_install(notebook, monkeypatch, sessions=sessions, settings={}).startswith(
            "./cover_jax-1-py3-none-any.whl"
        )


def test_without_a_source_the_setting_is_named(notebook, monkeypatch):
    with pytest.raises(ValueError, match="REPOSITORY is empty"):
        run_install(notebook, monkeypatch, sessions=None, settings={})


def test_a_failed_installation_and_a_needed_restart_are_said(notebook, monkeypatch):
    check = cell_with(notebook.cells, "invalidate_caches").source
    imports = {"importlib": importlib, "sys": sys}
    exec(check, dict(imports))
    older = types.ModuleType("PIL")
    older.__version__ = "1.0"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "PIL", older)
        with pytest.raises(RuntimeError, match="^pillow: loaded before it was updated. Runtime > Restart session"):
            exec(check, dict(imports))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="was not installed"):
        exec(check, dict(imports))


@pytest.mark.slow
def test_every_cell_runs_on_the_embedded_clips(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parent.parent), prepend=os.pathsep)  # its commands start elsewhere
    settings = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert 'SAVE_TO = ""' in settings.source
    settings.source = settings.source.replace('SAVE_TO = ""', f'SAVE_TO = "{tmp_path / "saved"}"')
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()

    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    text = "\n".join(map(printed, code))
    assert "mine: video_folder/mine, 64 to train on, 24 to validate on, 4 classes" in text
    assert "a run of this project, step 40" in text
    assert re.search(r"validation after 40 steps.*\n.*\n.*\n.*\nmine +4 +24 +25.0% +\d", text)
    assert len(re.findall(r"moving (?:left|right|up|down) +\d+\.\d%", printed(cell_with(code, "*chosen")))) == 4 * 3
    assert any("image/png" in output.get("data", {}) for output in cell_with(code, "plt.show()").outputs)
    assert any("<video" in output.get("data", {}).get("text/html", "") for output in cell_with(code, "Video(").outputs)
    assert "<iframe" in cell_with(code, "cover_jax.report").outputs[-1]["data"]["text/html"]
    trained = restore.load_trained(str(tmp_path / "saved"))
    assert trained.step == 40
    assert trained.class_names == {"mine": ["moving down", "moving left", "moving right", "moving up"]}


@pytest.fixture
def published(tmp_path):
    """A TimeSformer as the Hugging Face hub has it, small, with random weights."""
    config = common.get_config()
    config.model = small.config()
    config.datasets.videos = datasets.folder("video_folder/videos", num_frames=4)
    names = {"videos": NAMES}
    params = {"backbone": small.params()["backbone"], "heads": {"videos": small.params()["heads"]["videos"]}}
    formats.to_hugging_face(metadata.TrainedModel(config, names, params, 0), "videos", str(tmp_path / "published"))
    return tmp_path / "published"


def in_process(*arguments) -> list[str]:
    """Stands in for the notebook's `python`: without a process of its own, except for training."""
    arguments = [str(argument) for argument in arguments]
    if arguments[0] == "-c":
        return ["cpu 0 [CpuDevice(id=0)]"]
    if arguments[1] == "cover_jax.main":
        subprocess.run([sys.executable, *arguments], check=True, env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"})
    else:
        importlib.import_module(f"{arguments[1]}.__main__").main(arguments[2:])
    return []


@pytest.mark.slow
def test_every_cell_runs_on_a_folder_of_clips_and_a_published_model(notebook, published, tmp_path, monkeypatch, capfd):
    for name, level in (("dark", 40), ("light", 200)):
        for i in range(4):
            clips.write_clip(tmp_path / "mine" / name / f"{i}.mp4", level + 5 * i, step=2)
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parent.parent), prepend=os.pathsep)
    changes = {"model.size_px": 16, "model.num_frames": 4, "datasets.mine.num_frames": 4, "optimizer.warmup_steps": 2}
    variables = {"get_ipython": lambda: None}
    chosen = {"CLIPS": str(tmp_path / "mine"), "PUBLISHED": str(published), "INIT_FROM": str(published), "STEPS": 4}
    chosen |= {
        "VARIANT": "mu/8",
        "WORK": str(tmp_path / "work"),
        "SAVE_TO": str(tmp_path / "saved"),
        "CHANGES": changes,
    }
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(inputtransformer2.TransformerManager().transform_cell(cell.source), variables)
            variables |= chosen | ({"python": in_process} if "python" in variables else {})
    printed = capfd.readouterr().out
    # The first clip, before any training, by the published model's own classes.
    assert re.search(
        rf"{tmp_path}/mine/dark/0.mp4[^\n]*\b({'|'.join(NAMES)})\b", printed.partition("video_folder/mine")[0]
    )
    assert "video_folder/mine: train 6, validation 2; 2 classes" in printed and "validation after 4 steps" in printed
    assert restore.load_trained(str(tmp_path / "saved")).class_names == {"mine": ["dark", "light"]}
    assert (tmp_path / "work" / "explained.mp4").stat().st_size and (tmp_path / "work/run/report.html").exists()

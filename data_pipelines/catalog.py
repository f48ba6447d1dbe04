"""Finds prepared datasets and their folders, and the command that prepares a dataset.

Nothing here imports TensorFlow, so that a run on a dataset that is not prepared fails within seconds.
"""

import hashlib
import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterable

import tensorflow_datasets as tfds
from etils import epath

from data_pipelines import escaping, files

REFUSED_FILE = "refused.csv"  # files that are listed but not in the dataset
INFO_CHECKSUMS = "info_checksums.json"
_BUILDERS = ("data_pipelines.builders.formats", "data_pipelines.builders")  # packages of this project's builders


class DatasetNotPreparedError(FileNotFoundError):
    """A dataset has to be prepared before it can be read. The message has the command."""


def is_prepared(builder: str, data_dir: str) -> bool:
    """Whether `builder` ("name" or "name/config") is ready to read under `data_dir` ("": TFDS's default)."""
    return bool(_versions(builder, data_dir))


def dataset_dir(builder: str, data_dir: str) -> epath.Path:
    """The folder of the newest prepared version of `builder`.

    Raises:
        DatasetNotPreparedError: there is no such folder; the message has the command that prepares the dataset.
    """
    versions = _versions(builder, data_dir)
    if not versions:
        raise DatasetNotPreparedError(_not_prepared([builder], data_dir))
    return max(versions, key=lambda path: [int(part) for part in path.name.split(".")])


def read_info(where: epath.Path) -> tfds.core.DatasetInfo:
    """What TFDS stores about a prepared dataset in its folder (`dataset_dir`).

    Raises:
        DamagedFileError: one of these files is damaged.
    """
    _check_info(where)
    try:
        info = tfds.builder_from_directory(where).info
        _ = info.metadata  # which it reads late
        return info
    except OSError:
        raise
    except Exception as error:  # TFDS reads JSON, protocol buffers and texts, and raises an error of its own for each
        raise files.DamagedFileError(
            f"{where}: dataset_info.json, features.json or metadata.json is damaged: {type(error).__name__}: "
            f"{escaping.one_line(error, 300)}; restore it, or prepare the dataset again"
        ) from error


def write_info_checksums(where: epath.Path) -> None:
    """Writes the checksums of the files that describe a dataset, which `read_info` compares."""
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in _info_files(where)}
    files.write_whole(where / INFO_CHECKSUMS, files.sealed_json({"files": hashes}))


def _info_files(where: epath.Path) -> list[epath.Path]:
    """What describes a dataset beside its shards: JSON, class names, refused files."""
    found = [*where.glob("*.labels.txt"), *(where / name for name in _INFO_FILES)]
    return sorted((path for path in found if path.exists()), key=lambda path: path.name)


_INFO_FILES = ("dataset_info.json", "features.json", "metadata.json", REFUSED_FILE)


def _check_info(where: epath.Path) -> None:
    """Compares the files that describe a dataset with their checksums, if there are any.

    Raises:
        DamagedFileError: one differs, is missing, or is far too large.
    """
    sums = where / INFO_CHECKSUMS
    try:
        expected = files.read_json(sums, {"files": {str: str}})["files"] if sums.exists() else {}
    except files.DamagedFileError as error:  # what it says of other files is not used then, nor missed
        print(f"WARNING: {error}; not used; delete it", file=sys.stderr, flush=True)
        expected = {}
    present = [path for path in (where / name for name in {*_INFO_FILES, *expected}) if path.exists()]
    found = {path.name: hashlib.sha256(files.read_small(path)).hexdigest() for path in present}
    if wrong := min((name for name, value in expected.items() if found.get(name) != value), default=""):
        how = "damaged: not what was prepared" if wrong in found else "missing"
        raise files.DamagedFileError(
            f"{where / wrong} is {how}; restore it, or prepare the dataset again; if it was changed on purpose, delete "
            f"{sums.name} beside it"
        )


def require_prepared(builders: Iterable[str], data_dir: str) -> None:
    """Fails unless each of `builders` is prepared under `data_dir`, or can be prepared without the user.

    Raises:
        DatasetNotPreparedError: the message has the commands that prepare all missing datasets.
    """
    missing = [
        builder for builder in dict.fromkeys(builders)
        if not (is_self_contained(builder) or is_prepared(builder, data_dir))
    ]  # fmt: skip
    if missing:
        raise DatasetNotPreparedError(_not_prepared(missing, data_dir))


def builder_class(builder: str) -> type[tfds.core.GeneratorBasedBuilder] | None:
    """This project's builder with this name. None if the builder belongs to TFDS or to another package."""
    name = builder.partition("/")[0]
    for package in _BUILDERS if name.isidentifier() else ():
        if importlib.util.find_spec(f"{package}.{name}"):
            return getattr(importlib.import_module(f"{package}.{name}"), "Builder", None)
    return None


def builder_names() -> list[str]:
    """The names of this project's builders."""
    packages = [importlib.import_module(package) for package in _BUILDERS]
    return [name for one in packages for _, name, _ in pkgutil.iter_modules(one.__path__) if builder_class(name)]


def is_self_contained(builder: str) -> bool:
    """Whether `builder` can be prepared without files, and therefore without the user."""
    cls = builder_class(builder)
    return cls is not None and cls.SELF_CONTAINED


def prepare_command(builder: str, data_dir: str) -> str:
    """The shell command that prepares `builder` under `data_dir`."""
    name, _, config = builder.partition("/")
    where = f" --data_dir={data_dir}" if data_dir else ""
    cls = builder_class(builder)
    if cls is not None and cls.SELF_CONTAINED:
        return f"python -m data_pipelines.prepare {name}{where}"
    if cls is None or cls.MANUAL_DOWNLOAD_INSTRUCTIONS:
        return f"python -m data_pipelines.prepare {builder} --manual_dir=FOLDER{where}"
    source = getattr(cls, "SOURCE", "FOLDER")
    return f"python -m data_pipelines.prepare {name} --name={config or 'NAME'} --source={source}{where}"


def root_dir(data_dir: str) -> epath.Path:
    """The folder that holds all prepared datasets."""
    return epath.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()


def _versions(builder: str, data_dir: str) -> list[epath.Path]:
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", builder):
        raise ValueError(f'builder {builder!r} is not of the form "name" or "name/config"')
    folder = root_dir(data_dir) / builder
    found = [child for child in (folder.iterdir() if folder.is_dir() else ()) if _is_version(child)]
    own = builder_class(builder)
    if own and is_self_contained(builder):  # an older version differs from what this version of the project makes
        return [child for child in found if child.name == str(own.VERSION)]
    return found


def _is_version(path: epath.Path) -> bool:
    return bool(re.fullmatch(r"\d+\.\d+\.\d+", path.name)) and (path / "features.json").exists()


def _not_prepared(builders: list[str], data_dir: str) -> str:
    root = root_dir(data_dir)
    versions = [*root.glob("*/*/features.json"), *root.glob("*/*/*/features.json")]
    here = sorted({str(path.parent.parent.relative_to(root)) for path in versions})
    names = ", ".join(map(repr, builders))
    subject, pronoun = (f"dataset {names} is", "it") if len(builders) == 1 else (f"datasets {names} are", "them")
    commands = "".join(f"\n  {prepare_command(builder, data_dir)}" for builder in builders)
    return (
        f"{subject} not prepared in {root} (prepared there: {', '.join(here) or 'nothing'}). "
        f"Prepare {pronoun} with:{commands}"
    )

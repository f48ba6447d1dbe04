"""Sources of pretrained weights: a path, a bucket, or the Hugging Face hub."""

import contextlib
import dataclasses
from typing import Any

import huggingface_hub
from etils import epath
from huggingface_hub import errors as hub_errors

from cover_jax.models.pretrained import weight_files
from cover_jax.models.pretrained.errors import PretrainedError

BESIDE = ("config.json", "preprocessor_config.json")
MAX_BESIDE_BYTES = 16 << 20  # of each of them
DEFAULT_FILE = "model.safetensors"  # the file of a folder or hub repository if none is named


@dataclasses.dataclass(frozen=True)
class Opened:
    """A source's tensors, and the config.json and preprocessor_config.json next to them ({} if missing)."""

    tensors: weight_files.Tensors
    config: dict[str, Any]
    preprocessor: dict[str, Any]


def open_source(source: str) -> Opened:
    """Reads weights.

    Args:
        source: a file or folder, local or gs://; or hf://ORG/REPO[@REVISION][/FILE]. The hub's own client downloads
            that file into its cache. Without a network it uses the cache (HF_HUB_OFFLINE=1, HF_HOME).

    Raises:
        PretrainedError: the source does not exist, or does not contain weights.
    """
    weights, beside = _from_hub(source) if source.startswith("hf://") else _from_path(source)
    try:
        with weights.open("rb") as file:
            weight_files.check_start(file.read(weight_files.START_LENGTH))
        parsed = {name: weight_files.parse_json(_small(path), name) for name, path in beside.items()}
        return Opened(weight_files.parse(weights.read_bytes()), *(parsed.get(name, {}) for name in BESIDE))
    except PretrainedError as error:
        raise PretrainedError(f"{weights}: {error}") from error


def _small(path: epath.Path) -> bytes:
    if path.stat().length > MAX_BESIDE_BYTES:
        raise PretrainedError(f"its {path.name} is larger than {MAX_BESIDE_BYTES >> 20} MiB")
    data: bytes = path.read_bytes()
    return data


def _from_path(source: str) -> tuple[epath.Path, dict[str, epath.Path]]:
    """The weights, and name -> path of the files in BESIDE that are next to them."""
    path = epath.Path(source).expanduser()
    if path.is_dir():
        path = _in_folder(path)
    if not path.exists():
        raise PretrainedError(f"{path}: no such file")
    # Next to other formats, a config.json is unrelated. "pytorch_model.bin" is Hugging Face's older format.
    names = BESIDE if path.suffix in (".safetensors", ".bin") else ()
    return path, {name: path.parent / name for name in names if (path.parent / name).exists()}


def _in_folder(folder: epath.Path) -> epath.Path:
    path = folder / DEFAULT_FILE
    if path.exists():
        return path
    found = ", ".join(sorted(child.name for child in folder.iterdir())[:5])
    raise PretrainedError(f"{folder}: has no {DEFAULT_FILE}; name the file; the folder has {found or 'no files'}")


def _from_hub(source: str) -> tuple[epath.Path, dict[str, epath.Path]]:
    try:
        uri = huggingface_hub.parse_hf_uri(source)
    except ValueError as error:
        raise PretrainedError(f"{source}: is not hf://ORG/REPO[@REVISION][/FILE]: {error}") from error
    name = uri.path_in_repo or DEFAULT_FILE
    folder, _, _ = name.rpartition("/")
    unreachable = _why_unreachable(uri, name)
    try:
        weights = _download(uri, name, only_cached=bool(unreachable))
    except hub_errors.LocalEntryNotFoundError as error:
        why = unreachable or error
        raise PretrainedError(f"{source}: not in the hub's cache, and the hub cannot be reached: {why}") from error
    except hub_errors.HfHubHTTPError as error:
        raise PretrainedError(f"{source}: the hub has no {name} there, or you have no access: {error}") from error
    beside = {}
    for other in BESIDE:
        with contextlib.suppress(hub_errors.EntryNotFoundError):  # also if it is not cached and there is no network
            beside[other] = _download(uri, f"{folder}/{other}".removeprefix("/"), only_cached=bool(unreachable))
    return weights, beside


def _why_unreachable(uri: huggingface_hub.HfUri, name: str) -> str:
    """Why the hub does not answer, after one try; "" if it does. The client's download tries six times, for 23 s."""
    url = huggingface_hub.hf_hub_url(uri.id, name, repo_type=uri.type, revision=uri.revision)
    try:
        huggingface_hub.get_hf_file_metadata(url)
    except hub_errors.HfHubHTTPError:  # it answers; the download says what is wrong
        return ""
    except Exception as error:  # of the client's HTTP library, which has changed before
        return f"{type(error).__name__}: {error}"
    return ""


def _download(uri: huggingface_hub.HfUri, name: str, only_cached: bool) -> epath.Path:
    return epath.Path(
        huggingface_hub.hf_hub_download(
            uri.id, name, repo_type=uri.type, revision=uri.revision, local_files_only=only_cached
        )
    )

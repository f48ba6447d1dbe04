"""Sources of pretrained weights: a path, a bucket, or the Hugging Face hub."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import huggingface_hub
from etils import epath
from huggingface_hub import errors as hub_errors

from cover_jax.models.pretrained import weight_files
from cover_jax.models.pretrained.errors import PretrainedError

BESIDE = ("config.json", "preprocessor_config.json", "open_clip_config.json")
MAX_BESIDE_BYTES = 16 << 20  # of each of them, and of an index of shards
_SHARDS = ".index.json"  # ending of the file that names the shards, as Hugging Face writes it
# The files of a folder or hub repository if none is named; the first one that is there.
WEIGHTS = (
    "model.safetensors", f"model.safetensors{_SHARDS}", "pytorch_model.bin", f"pytorch_model.bin{_SHARDS}",
    "open_clip_model.safetensors", "open_clip_pytorch_model.bin",
)  # fmt: skip
_SHOWN_FILES = 5  # of a folder, in an error

_Find = Callable[[str], epath.Path | None]  # name of a file beside the weights -> its path; None: there is none


@dataclasses.dataclass(frozen=True)
class Opened:
    """A source's tensors, and the files of BESIDE next to them ({} if missing)."""

    tensors: weight_files.Tensors
    config: dict[str, Any]
    preprocessor: dict[str, Any]
    open_clip: dict[str, Any] = dataclasses.field(default_factory=dict)


def open_source(source: str) -> Opened:
    """Reads weights.

    Args:
        source: a file or folder, local or gs://; or hf://ORG/REPO[@REVISION][/FILE]. The hub's own client downloads
            the files into its cache. Without a network it uses the cache (HF_HUB_OFFLINE=1, HF_HOME).

    Raises:
        PretrainedError: the source does not exist, or does not contain weights.
    """
    weights, find = _from_hub(source) if source.startswith("hf://") else _from_path(source)
    try:
        tensors = _sharded(weights, find) if weights.name.endswith(_SHARDS) else _read(weights)
        # Next to other formats, a config.json is unrelated.
        has_config = weights.name.endswith((".safetensors", ".bin", _SHARDS))
        paths = {name: find(name) if has_config else None for name in BESIDE}
        beside = (weight_files.parse_json(_small(path), name) if path else {} for name, path in paths.items())
        return Opened(tensors, *beside)
    except PretrainedError as error:
        raise PretrainedError(f"{weights}: {error}") from error


def _small(path: epath.Path) -> bytes:
    if path.stat().length > MAX_BESIDE_BYTES:
        raise PretrainedError(f"its {path.name} is larger than {MAX_BESIDE_BYTES >> 20} MiB")
    data: bytes = path.read_bytes()
    return data


def _read(weights: epath.Path) -> weight_files.Tensors:
    with weights.open("rb") as file:
        weight_files.check_start(file.read(weight_files.START_LENGTH))
    return weight_files.parse(weights.read_bytes())


def _sharded(index: epath.Path, find: _Find) -> weight_files.Tensors:
    """All tensors of the shards that an index names."""
    shard_of = weight_files.parse_json(_small(index), index.name).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(file, str) for file in shard_of.values()):
        raise PretrainedError("it has no weight_map from names of tensors to names of files")
    shards = {}
    for file in sorted(set(shard_of.values())):
        if "/" in file or file.endswith(_SHARDS):
            raise PretrainedError(f"its weight_map has {file!r}, which is not the name of a file beside it")
        if (path := find(file)) is None:
            raise PretrainedError(f"lacks its shard {file}")
        try:
            shards[file] = _read(path)
        except PretrainedError as error:
            raise PretrainedError(f"{file}: {error}") from error
    if missing := next((name for name, file in shard_of.items() if name not in shards[file].names), None):
        raise PretrainedError(f"{shard_of[missing]}: lacks the tensor {missing} that the index names")
    owners = {name: shard for shard in shards.values() for name in shard.names}
    return weight_files.Tensors(tuple(owners), lambda name: owners[name].read(name))


def _from_path(source: str) -> tuple[epath.Path, _Find]:
    """The weights, and where files beside them are."""
    path = epath.Path(source).expanduser()
    if path.is_dir():
        path = _in_folder(path)
    if not path.exists():
        raise PretrainedError(f"{path}: no such file")

    def find(name: str) -> epath.Path | None:
        beside: epath.Path = path.parent / name
        return beside if beside.exists() else None

    return path, find


def _in_folder(folder: epath.Path) -> epath.Path:
    for name in WEIGHTS:
        if (folder / name).exists():
            return folder / name
    found = ", ".join(sorted(child.name for child in folder.iterdir())[:_SHOWN_FILES])
    raise PretrainedError(
        f"{folder}: has none of {', '.join(WEIGHTS)}; name the file; the folder has {found or 'no files'}"
    )


def _from_hub(source: str) -> tuple[epath.Path, _Find]:
    try:
        uri = huggingface_hub.parse_hf_uri(source)
    except ValueError as error:
        raise PretrainedError(f"{source}: is not hf://ORG/REPO[@REVISION][/FILE]: {error}") from error
    names = [uri.path_in_repo] if uri.path_in_repo else list(WEIGHTS)
    folder, _, _ = names[0].rpartition("/")
    unreachable = _why_unreachable(uri, names[0])
    try:
        weights = _first_of(uri, names, only_cached=bool(unreachable))
    except hub_errors.LocalEntryNotFoundError as error:
        why = unreachable or error
        raise PretrainedError(f"{source}: not in the hub's cache, and the hub cannot be reached: {why}") from error
    except hub_errors.HfHubHTTPError as error:
        raise PretrainedError(f"{source}: the hub has no {names[0]} there, or you have no access: {error}") from error

    def find(name: str) -> epath.Path | None:
        with contextlib.suppress(hub_errors.EntryNotFoundError):  # also if it is not cached and there is no network
            return _download(uri, f"{folder}/{name}".removeprefix("/"), only_cached=bool(unreachable))
        return None

    return weights, find


def _first_of(uri: huggingface_hub.HfUri, names: list[str], only_cached: bool) -> epath.Path:
    """The first of these files that a repository has, or that is in the cache."""
    for name in names[:-1]:
        with contextlib.suppress(hub_errors.EntryNotFoundError):
            return _download(uri, name, only_cached)
    try:
        return _download(uri, names[-1], only_cached)
    except hub_errors.LocalEntryNotFoundError:
        if only_cached:  # the first name says best what is missing
            _download(uri, names[0], only_cached)
        raise


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

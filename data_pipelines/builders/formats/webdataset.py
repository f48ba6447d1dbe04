"""WebDataset: tar files, called shards, whose members of one name are a sample; videos by default.

A sample's key is the path of its members up to the first dot of the file name, and what follows the dot is the name of
a field, in small letters. Members of a sample stand side by side. Members without a dot or with a dot first, and those
that begin with "__", belong to no sample (github.com/webdataset/webdataset, webdataset/tariterators.py: base_plus_ext,
group_by_keys, tar_file_iterator).

    0001.mp4  0001.cls  0001.json
    0002.mp4  0002.cls  0002.json

--source may be a folder of shards, 'shards-{000..099}.tar' or 'a.tar::b-{0..9}.tar.gz'. The tars are read where they
are, and a damaged one is refused by name. Two members of one sample with one field, a key that comes twice in a shard,
samples without a label or medium, or with several media, are named before anything is decoded.
"""

import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import os
import posixpath
import re
from collections.abc import Iterator

from etils import epath
from tqdm import tqdm

from data_pipelines import archives, escaping, files
from data_pipelines.builders.formats import samples
from data_pipelines.escaping import escape, quote
from data_pipelines.prepare import base, folder
from data_pipelines.prepare.listing import Item, Listing, flag
from data_pipelines.sources.class_names import normalize

FIELDS = {  # modality -> fields that are media: what the last dot is followed by
    "video": ("mp4", "webm", "avi", "mkv", "mov", "m4v", "gif"),
    "image": ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff"),
}
MAX_SHARDS = 100_000
_KEY = re.compile(r"(?P<key>(.*/)?[^./][^./]*)\.(?P<field>[^/]*)", re.DOTALL)
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the samples are divided and labelled: flags of `data_pipelines.prepare`."""

    validation_source: str = flag("", "shards of the validation split, as --source")
    validation_share: float = flag(0.0, "share of each class that is validation: the last samples of it")
    modality: str = flag("video", "video or image: which fields are media")
    media_field: str = flag("", "the field with the medium, such as mp4; needed if samples have several")
    label_field: str = flag("cls", "the field with the label: cls or txt, or json:KEY for a value of a JSON object")
    class_names: str = flag("", "file, per line a class, or its number and name; else: the labels that are found")
    incomplete: str = flag(samples.REFUSE, "what to do with samples without label or medium: refuse or skip")


class _WebDataset(folder.FolderBuilder, skip_registration=True):
    LAYOUT = Layout
    SOURCE, EXAMPLE = "SHARDS", "'/data/shards-{000..099}.tar'"
    SOURCE_HELP = "the shards: a folder, a name such as 'shards-{000..099}.tar', or several of these with :: between"

    @classmethod
    def for_layout(cls, layout):
        """The builder of the modality."""
        samples.check_choice("modality", layout.modality, samples.MODALITIES)
        return Images if layout.modality == "image" else Builder

    def origin(self):
        """The shards of both splits by their names, and one hash of where they are."""
        given = [self.builder_config.source, self.builder_config.layout.validation_source]
        described = [[base.describe_source(part) for part in one.split("::") if part] for one in given]
        names = ["::".join(part["source"] for part in parts) for parts in described]
        places = json.dumps([[part[base.SOURCE_HASH] for part in parts] for parts in described])
        hashed = {base.SOURCE_HASH: hashlib.sha256(places.encode()).hexdigest()}
        return super().origin() | {"source": names[0], "validation_source": names[1]} | hashed

    def _list(self, source):
        return find(source, self.builder_config.layout)


class Builder(base.VideoFiles, _WebDataset, skip_registration=True):
    """Samples of a WebDataset."""

    name = "webdataset"


class Images(base.ImageFiles, _WebDataset, skip_registration=True):
    """Samples of a WebDataset."""

    name = "webdataset"


def find(source: str, layout: Layout) -> tuple[epath.Path, Listing]:
    """The folder of all shards, and the samples in them.

    Raises:
        FileNotFoundError: a shard is missing.
        DamagedArchiveError: a shard is cut off or damaged.
        ValueError: a flag is wrong, a shard is named twice, or samples are incomplete.
    """
    samples.check_choice("incomplete", layout.incomplete, (samples.REFUSE, samples.SKIP))
    if layout.validation_source and layout.validation_share:
        raise ValueError("--validation_source and --validation_share: only one of them can divide the samples")
    shards = {"train": expand(source)}
    if layout.validation_source:
        shards["validation"] = expand(layout.validation_source)
    root = _check_shards(shards)
    found = {split: _samples_of(root, paths, layout) for split, paths in shards.items()}
    if layout.validation_share:
        found = samples.by_share(found["train"], layout.validation_share)
    return root, samples.listed(found, samples.read_names(root, layout.class_names))


def expand(source: str) -> list[str]:
    """The shards that --source names: of folders all tars in them, of braces each shard of a range, of A::B both.

    Raises:
        ValueError: a range is empty or far too large.
        FileNotFoundError: a folder has no tar.
    """
    shards = list(itertools.islice(_expand_all(source), MAX_SHARDS + 1))
    if len(shards) > MAX_SHARDS:
        raise ValueError(f"{escape(source)}: names more than {MAX_SHARDS:,} shards")
    return shards


def _expand_all(source: str) -> Iterator[str]:
    for part in source.split("::"):
        for name in _expand(part):
            if archives.is_archive(name) or not epath.Path(name).expanduser().is_dir():
                yield os.path.expanduser(name)
                continue
            path = epath.Path(name).expanduser()
            inside = sorted(one for one in files.walk(path) if archives.is_archive(one))
            if not inside:
                raise FileNotFoundError(f"{escape(path)} has no tar in it: it must be a folder of shards")
            yield from (os.fspath(path / one) for one in inside)


def _expand(text: str) -> Iterator[str]:
    """A text with the first {A..B} or {a,b} in it replaced by each of its values, and so on."""
    match = re.search(r"\{([^{}]*)\}", text)
    if not match:
        yield text
        return
    span = _RANGE.fullmatch(match[1])
    if span and not 0 <= int(span[2]) - int(span[1]) < MAX_SHARDS:
        raise ValueError(f"{escape(text)}: {{{match[1]}}} is no range: it must ascend, by less than {MAX_SHARDS:,}")
    width = max(map(len, span.groups())) if span and any(one[0] == "0" for one in span.groups()) else 0
    values = (f"{i:0{width}d}" for i in range(int(span[1]), int(span[2]) + 1)) if span else match[1].split(",")
    for value in values:
        yield from _expand(text[: match.start()] + value + text[match.end() :])


def _check_shards(shards: dict[str, list[str]]) -> epath.Path:
    """Checks that each shard is there and named once; the folder in which all are."""
    named = [path for paths in shards.values() for path in paths]
    seen: set[str] = set()
    for path in named:
        if path in seen:
            raise ValueError(f"shard {escape(path)} is named twice, by --source or --validation_source")
        seen.add(path)
    if missing := [path for path in named if not epath.Path(path).is_file()]:
        raise FileNotFoundError(
            f"{len(missing)} of {len(named)} shards are missing: {escaping.first(missing, samples.SHOWN)}"
        )
    folders = {os.fspath(epath.Path(path).resolve().parent) for path in named}
    return epath.Path(posixpath.commonpath(folders))


def _samples_of(root: epath.Path, shards: list[str], layout: Layout) -> list[Item]:
    """The samples of a split, in the order of the shards."""
    incomplete = samples.Incomplete()
    items: list[Item] = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        listed = pool.map(lambda path: _shard(root, path, layout), shards)
        for found, unusable in tqdm(listed, "shards", len(shards), disable=len(shards) < 2):
            items += found
            for reason, name in unusable:
                incomplete.add(reason, name)
    where = escape(shards[0]) + (f" and {len(shards) - 1} more shards" if len(shards) > 1 else "")
    if not items and not incomplete.found:
        raise ValueError(f"{where}: there are no samples. {_SHAPE}")
    incomplete.settle(where, layout.incomplete, len(items))
    return items


_SHAPE = "A sample is members such as 0001.mp4 and 0001.cls"


def _shard(root: epath.Path, shard: str, layout: Layout) -> tuple[list[Item], list[tuple[str, str]]]:
    """The samples of a shard, and (reason, name) of those that are incomplete."""
    path = epath.Path(shard).resolve()
    inside = os.fspath(path.relative_to(root))
    field = layout.label_field.partition(":")[0].lower()
    items, keys, unusable = [], set(), []
    members = archives.members_with_contents(path, lambda name: _split(name)[1] == field)
    in_samples = (one for one in members if _split(one[0].name)[0])
    for key, group in itertools.groupby(in_samples, lambda one: _split(one[0].name)[0]):
        name = f"{inside}/{key}"
        if key in keys:
            raise ValueError(f"{escape(path)}: key {quote(key)} comes twice, with other samples between")
        keys.add(key)
        fields = _fields(path, list(group))
        medium, label = _medium(fields, layout), _label(fields, layout.label_field)
        unusable += [(found.text, name) for found in (medium, label) if isinstance(found, _Reason)]
        if isinstance(medium, archives.Member) and isinstance(label, str):
            span = (medium.start, medium.size)
            items.append(Item(f"{inside}/{medium.name.removeprefix('./')}", label, archive=inside, span=span))
    return items, unusable


_Fields = dict[str, tuple[archives.Member, bytes | None]]


@dataclasses.dataclass(frozen=True)
class _Reason:
    """Why a sample cannot be used: what stands between "samples" and their names."""

    text: str


def _split(name: str) -> tuple[str, str]:
    """Key and field of a member; "" and "" if it belongs to no sample."""
    name = name.removeprefix("./")
    match = None if name.startswith("__") else _KEY.fullmatch(name)
    return (match["key"], match["field"].lower()) if match else ("", "")


def _fields(path: epath.Path, group: list[tuple[archives.Member, bytes | None]]) -> _Fields:
    """Field -> member and contents of one sample."""
    fields: _Fields = {}
    for member, data in group:
        key, field = _split(member.name)
        if field in fields:
            raise ValueError(f"{escape(path)}: sample {quote(key)} has two fields {quote(field)}")
        fields[field] = (member, data)
    return fields


def _medium(fields: _Fields, layout: Layout) -> archives.Member | _Reason:
    if layout.media_field:
        named = layout.media_field.lower().lstrip(".")
        return fields[named][0] if named in fields else _Reason(f"have no {named}")
    kinds = FIELDS[layout.modality]
    media = [field for field in fields if field.rpartition(".")[2] in kinds]
    if len(media) == 1:
        return fields[media[0]][0]
    if media:
        return _Reason(f"have several media ({', '.join(sorted(media))}; --media_field names the one to take)")
    other, article = ("image", "an") if layout.modality == "video" else ("video", "a")
    has_other = any(field.rpartition(".")[2] in FIELDS[other] for field in fields)
    hint = f", but {article} {other}: --modality={other}" if has_other else ""
    return _Reason(f"have no {layout.modality}{hint}")


def _label(fields: _Fields, label_field: str) -> str | _Reason:
    field, _, key = label_field.partition(":")
    field = field.lower()
    if field not in fields:
        others = sorted(one for one in fields if one in ("cls", "txt", "json"))
        hint = f", but {', '.join(others)}: --label_field names the label" if others else ""
        return _Reason(f"have no {field}{hint}")
    data = fields[field][1]
    try:
        text = "" if data is None else data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return _Reason(f"have a {field} that is not UTF-8")
    if data is None:
        return _Reason(f"have a {field} that is too large for a label")
    if key or field == "json":
        return _of_json(text, key)
    label = normalize(text.strip())
    if not label:
        return _Reason(f"have an empty {field}")
    if field == "cls" and not re.fullmatch(r"\d+", label, re.ASCII):
        return _Reason("have a cls that is no whole number")
    return str(int(label)) if field == "cls" else label


def _of_json(text: str, key: str) -> str | _Reason:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return _Reason("have a json that cannot be read")
    if not isinstance(found, dict) or key not in found:
        keys = ", ".join(sorted(found)) if isinstance(found, dict) else ""
        return _Reason(f"have no {quote(key)} in their json ({escape(keys[:200])}): --label_field=json:KEY")
    value = found[key]
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        return _Reason(f"have a {quote(key)} in their json that is neither a text nor a whole number")
    return normalize(value.strip()) if isinstance(value, str) else str(value)

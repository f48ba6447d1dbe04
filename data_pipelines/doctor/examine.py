"""Compares a dataset with the list of its source: prepared records, or files before they are prepared."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict
from tqdm import tqdm

from data_pipelines import catalog, escaping, files, processes
from data_pipelines.doctor import manifest, page
from data_pipelines.prepare import base, build, listing, worker_pool
from data_pipelines.sources import mirrored_names

PAGE = "doctor.html"
SHOWN_UNUSABLE = 5
SHOWN_CLASSES = 5
NUM_SAMPLES = 12  # pictures per split on the page
AHEAD = 8  # files per process that are submitted in advance
FILE_COLUMNS: dict[str, type | str] = {
    "label": int, "num_frames": int, "fps": float, "height_px": int, "width_px": int, "bytes": int, "reason": "S",
}  # fmt: skip


def examine_prepared(names: list[str], data_dir: str, output: str, frames_feature: str) -> None:
    """Examines every record of prepared datasets, and finds the leaks between and within the datasets."""
    load_facts = _facts_loader()
    examined = {name: _Examined.of(name, data_dir, output, frames_feature, load_facts) for name in names}
    training, validation = (
        {name: found.splits[role] for name, found in examined.items() if role in found.splits}
        for role in ("train", "validation")
    )
    _search(training, validation, {name: found.frames_feature for name, found in examined.items()}, load_facts)


def examine_mix(config: ConfigDict, data_dir: str, output: str) -> None:
    """Examines the datasets of a config, and finds the leaks between the splits that a run with this config opens."""
    catalog.require_prepared((dataset.builder for dataset in config.datasets.values()), data_dir)
    load_facts = _facts_loader()
    examined: dict[str, _Examined] = {}
    training, validation = {}, {}
    for name, dataset in config.datasets.items():
        if dataset.builder not in examined:
            frames_feature = dataset.frames_feature
            examined[dataset.builder] = _Examined.of(dataset.builder, data_dir, output, frames_feature, load_facts)
        training[name] = examined[dataset.builder].open(dataset.train_split, data_dir)
        if dataset.eval_split:
            validation[name] = examined[dataset.builder].open(dataset.eval_split, data_dir)
    frames_features = {name: dataset.frames_feature for name, dataset in config.datasets.items()}
    _search(training, validation, frames_features, load_facts)


def _facts_loader() -> Callable:
    """`facts.load_facts`, once per split for the manifest and for the leaks."""
    from data_pipelines.leaks import facts  # imports TensorFlow, which is slow

    return functools.cache(facts.load_facts)


def _search(training: dict, validation: dict, frames_features: dict[str, str], load_facts: Callable) -> None:
    from data_pipelines.leaks import search  # imports TensorFlow, which is slow

    leaks = search.find_leaks(training, validation, frames_features, load_facts, own_content=True)
    print("\n".join(search.report_lines([pair.summary() for pair in leaks])))


@dataclasses.dataclass(frozen=True, eq=False)
class _Examined:
    """A prepared dataset: its name, its splits, and the feature that holds its pictures."""

    name: str
    splits: dict[str, Any]
    frames_feature: str

    @classmethod
    def of(cls, name: str, data_dir: str, output: str, frames_feature: str, load_facts: Callable) -> "_Examined":
        """Examines a dataset, and writes its manifest and page."""
        from data_pipelines.stream import records

        where = catalog.dataset_dir(name, data_dir)
        splits = {split: records.open_split(name, split, data_dir) for split in _splits_of(where)}
        frames_feature = frames_feature or _pictures_feature(next(iter(splits.values())).features)
        found, samples = _of_records(name, where, splits, frames_feature, load_facts)
        _publish(found, samples, epath.Path(output) / name.replace("/", "_") if output else where)
        return cls(name, splits, frames_feature)

    def open(self, split: str, data_dir: str) -> Any:
        """One of the splits, or a part of one, such as "train[:10%]"."""
        from data_pipelines.stream import records

        return self.splits.get(split) or records.open_split(self.name, split, data_dir)


def _splits_of(where: epath.Path) -> list[str]:
    return list(catalog.read_info(where).splits)


def _pictures_feature(features: tuple[str, ...]) -> str:
    from data_pipelines.leaks import facts

    if found := facts.pictures_feature(features):
        return found
    raise ValueError(
        f"none of the features {', '.join(features)} is called frames, image or video: --frames_feature=NAME"
    )


def _of_records(
    name: str, where: epath.Path, splits: dict, frames_feature: str, load_facts: Callable
) -> tuple[dict, dict]:
    """The manifest of a prepared dataset, and for each split (class, JPEG) of some of its records."""
    from data_pipelines.leaks import facts

    refused, described = base.read_refused(where), {}
    samples: dict[str, list[tuple[str, bytes]]] = {}
    for role, split in splits.items():
        known = load_facts(split, frames_feature)
        paths = [known.text("source", i) or f"record {i}" for i in range(len(known))]
        several = (known.labels, known.labelled) if split.several_labels else None
        described[role] = manifest.describe_split(split.class_names, known.columns, paths, refused[role], several)
        good = np.flatnonzero(known["reason"] == b"")
        chosen = good[np.unique(np.linspace(0, len(good) - 1, NUM_SAMPLES).astype(int))] if len(good) else good
        samples[role] = []
        for i in chosen.tolist():
            (jpeg,), _ = facts.some_frames(split, i, frames_feature, 1)
            labels = known.labels[known.labelled == i]
            samples[role].append((", ".join(_class_name(split.class_names, label) for label in labels), jpeg))
    metadata = where / "metadata.json"
    origin = files.read_json(metadata, {}).get("origin", {}) if metadata.exists() else {}
    modality = next(iter(splits.values())).modality
    if "source" in origin:  # datasets of 0.2.0 have its whole path
        origin["source"] = files.public_name(origin["source"])
    about = {"dataset": name, "where": f"{name}/{where.name}", "modality": modality, "origin": origin}
    return about | {"splits": described}, samples


def _class_name(names: tuple[str, ...], label: int) -> str:
    return names[label] if 0 <= label < len(names) else ""


def examine_sources(prepare_arguments: list[str], output: str) -> None:
    """Decodes every file from which a dataset would be prepared. Each of several has its own folder."""
    several = build.num_sources(prepare_arguments) > 1
    for name, modality, reader, found in build.sources(prepare_arguments):
        if "form" in reader.options:  # frames are examined, whatever the form in which they would be stored
            reader = dataclasses.replace(reader, options=reader.options | {"form": "frames"})
        examined = {role: _of_files(reader, found, role) for role in found.splits}
        where = escaping.escape(files.public_name(reader.source))
        about = {"dataset": name, "where": where, "modality": modality, "origin": reader.options}
        splits = {role: described for role, (described, _) in examined.items()}
        folder = epath.Path(output) / name.replace("/", "_") if several else epath.Path(output)
        _publish(about | {"splits": splits}, {role: shown for role, (_, shown) in examined.items()}, folder)


def _of_files(reader: worker_pool.Reader, found: listing.Listing, role: str) -> tuple[dict, list]:
    """The manifest of the files of one split, and (class, JPEG) of some of them."""
    items, samples = found.splits[role], []
    rows: list[dict[str, Any]] = []
    index_of = {name: i for i, name in enumerate(found.class_names)}
    labels: list[int] = []
    labelled: list[int] = []
    with_parts: set[str] = set()
    several = any(item.labels is not None for item in items)
    refused = [_refusal(item, base.MISSING) for item in found.missing.get(role, ())]
    for number, (item, seen) in enumerate(_in_parallel(functools.partial(_look, reader), items, role)):
        if isinstance(seen, str):
            refused.append(_refusal(item, seen))
            continue
        row, jpeg = seen
        if item.cut is not None:  # the bytes of a file count with its first part
            row["bytes"] *= item.path not in with_parts
            with_parts.add(item.path)
        names = item.labels if item.labels is not None else (item.label,) if item.label else ()
        labels += [index_of[name] for name in names]
        labelled += [len(rows)] * len(names)
        rows.append(row | {"label": index_of[names[0]] if names else -1, "reason": b""})
        if number % max(1, len(items) // NUM_SAMPLES) == 0:
            samples.append((item.label, jpeg))
    columns = {name: np.array([row[name] for row in rows], dtype) for name, dtype in FILE_COLUMNS.items()}
    of_files = (np.array(labels, int), np.array(labelled, int)) if several else None
    return manifest.describe_split(found.class_names, columns, [], refused, of_files), samples[:NUM_SAMPLES]


def _refusal(item: listing.Item, reason: str) -> dict[str, str]:
    return {"path": escaping.escape(item.source), "label": item.label, "reason": escaping.escape_text(reason)}


def _look(reader: worker_pool.Reader, item: listing.Item) -> tuple[dict, bytes] | str:
    """The facts of one file, and its middle frame; or the reason why it cannot be used."""
    media = reader.read_one(item)
    if isinstance(media, str):
        return media
    height_px, width_px = page.jpeg_size_px(media.frames[0])
    size = item.span[1] if item.span else (epath.Path(reader.source) / item.path).stat().length
    row = {
        "num_frames": len(media.frames),
        "fps": media.fps,
        "height_px": height_px,
        "width_px": width_px,
        "bytes": size,
    }
    return row, media.frames[len(media.frames) // 2]


def _in_parallel(look: Callable, items: list, role: str) -> Iterator[tuple]:
    """Each item with its result of `look`, computed on all cores. The number of waiting results is limited."""
    workers = os.cpu_count() or 1
    ahead = AHEAD * workers
    with (
        processes.pool(workers) as pool,
        tqdm(total=len(items), desc=role, unit="file", mininterval=1) as bar,
    ):
        for start in range(0, len(items), ahead):
            part = items[start : start + ahead]
            for seen in zip(part, pool.map(look, part), strict=True):
                bar.update()
                yield seen


def _publish(found: dict, samples: dict, folder: epath.Path) -> None:
    """Prints a manifest, and writes the manifest and the page to files."""
    _print(found)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_whole(folder / manifest.FILE, files.sealed_json(found))
    files.write_whole(folder / PAGE, page.render_manifest(found, samples).encode())
    print(escaping.escape_text(f"  {folder / manifest.FILE}\n  {folder / PAGE}"))


def _print(found: dict) -> None:
    print(f"{found['dataset']} ({found['modality']}) in {found['where']}")
    class_names = list(next(iter(found["splits"].values()))["classes"]) if found["splits"] else []
    for line in mirrored_names.mirrored_names(class_names).lines(class_names):
        print(f"  mirrored clips: {line}")
    for role, split in found["splits"].items():
        print(f"  {manifest.summary_line({role: split})}; {split['bytes'] / 1e9:.2f} GB")
        if found["modality"] == "video":
            print(f"    seconds {_span(split['seconds'])}; frames per second {_span(split['fps'])}")
        print(f"    height {_span(split['height_px'])} px, width {_span(split['width_px'])} px")
        if "labels_per_clip" in split:
            print(f"    labels per clip {_span(split['labels_per_clip'])}")
        for line in _about_classes(split["classes"]):
            print(escaping.escape_text(f"    {line}"))
        missing_last = sorted(split["unusable"], key=lambda row: row["reason"] == base.MISSING)
        for row in missing_last[:SHOWN_UNUSABLE]:
            print(f"    {row['path']}: {row['reason']}")
        if len(split["unusable"]) > SHOWN_UNUSABLE:
            print(f"    and {len(split['unusable']) - SHOWN_UNUSABLE} more, in {manifest.FILE}")


def _span(figures: dict[str, float]) -> str:
    return f"{figures['min']:g} to {figures['max']:g}, median {figures['median']:g}" if figures else "unknown"


def _about_classes(classes: dict[str, list[int]]) -> Iterator[str]:
    """Lines about the balance of the classes, empty classes, and classes with the most missing files."""
    counts = sorted(found for _, found in classes.values())
    if not counts:
        return
    yield f"{len(counts)} classes of {counts[0]} to {counts[-1]}, median {counts[len(counts) // 2]}"
    empty = [name for name, (_, found) in classes.items() if not found]
    if empty:
        yield f"nothing of {len(empty)} classes: {_some(empty)}"
    lacking = sorted((found - listed, name) for name, (listed, found) in classes.items() if found < listed)
    if lacking:
        worst = [f"{name} {classes[name][1]} of {classes[name][0]}" for _, name in lacking]
        yield f"fewer than listed in {len(lacking)} classes: {_some(worst)}"


def _some(names: list[str]) -> str:
    return ", ".join([*names[:SHOWN_CLASSES], *(["..."] if len(names) > SHOWN_CLASSES else [])])

"""The publishers' folders of cover_l's datasets, in miniature: all classes, all lists, hard links to a few encodings.

The lists name every class, as the publishers' do: 400, 600, 700 of Kinetics, 174 of Something-Something, 305 of
Moments in Time, 1,000 of ImageNet. Only `TRAIN` training and `VALIDATION` validation files of each are present. Each
split of each dataset shows scenes of its own, so that none is a leak of another.
"""

import io
import json
import os
import pathlib
import zlib

import av
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from tests.data_pipelines.publishers import tar_of

TRAIN, VALIDATION = 24, 8
# Height, width. The usual copies of Kinetics have 256 rows. The canvas follows what is stored, and with a model this
# small most of a step is the enlargement of the canvas to the configs' 224 or 448 px.
SIZE_PX = (96, 128)
ENCODERS = {".mp4": "libx264", ".webm": "libvpx-vp9"}


def make_all(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Name of the builder -> the folder for its --manual_dir."""
    return {
        "kinetics/400": kinetics(root / "k400", 400),
        "kinetics/600": kinetics(root / "k600", 600),
        "kinetics/700": kinetics(root / "k700", 700),
        "something_something/v2": something_something(root / "ssv2"),
        "moments_in_time/305": moments_in_time(root / "mit", 305),
        "imagenet2012": imagenet2012(root / "ilsvrc"),
    }


def kinetics(root: pathlib.Path, num_classes: int) -> pathlib.Path:
    """As CVDF distributes it: a csv file and a flat folder per split."""
    names = [f"kinetics action {i:03d}" for i in range(num_classes)]
    counts = {"train": (num_classes, TRAIN), "val": (VALIDATION, VALIDATION)}
    for place, (split, (listed, present)) in enumerate(counts.items()):
        ids = [f"{num_classes}{place}{i:07d}" for i in range(listed)]
        rows = [f"{names[i]},{clip},{i},{i + 10},{split}" for i, clip in enumerate(ids)]
        _write(root / "annotations" / f"{split}.csv", "\n".join(["label,youtube_id,time_start,time_end,split", *rows]))
        clips = [root / split / f"{clip}_{i:06d}_{i + 10:06d}.mp4" for i, clip in enumerate(ids[:present])]
        link_scenes(clips, f"kinetics {num_classes} {split}")
    return root


def something_something(root: pathlib.Path) -> pathlib.Path:
    """As Qualcomm distributes it, unpacked: labels/ and ID.webm."""
    templates = [f"Moving [something] in way {i:03d}" for i in range(172)]
    templates += ["Pushing [something] from left to right", "Pushing [something] from right to left"]
    labels = {template.replace("[", "").replace("]", ""): str(i) for i, template in enumerate(templates)}
    _write(root / "labels" / "labels.json", json.dumps(labels))
    for first, (split, listed, present) in (
        (1, ("train", len(templates), TRAIN)),
        (1001, ("validation", VALIDATION, VALIDATION)),
    ):
        entries = [
            {"id": str(first + i), "template": templates[-1 - i], "placeholders": ["a cup"]} for i in range(listed)
        ]
        _write(root / "labels" / f"{split}.json", json.dumps(entries))
        clips = [root / "20bn-something-something-v2" / f"{first + i}.webm" for i in range(present)]
        link_scenes(clips, f"something {split}")
    return root


def moments_in_time(root: pathlib.Path, num_classes: int) -> pathlib.Path:
    """As MIT distributes it: two csv files, the categories, a folder per split and class."""
    names = [f"verb+{i:03d}" for i in range(num_classes)]
    _write(root / "moments_categories.txt", "".join(f"{name},{i}\n" for i, name in enumerate(names)))
    for table, folder, listed, present in (
        ("trainingSet.csv", "training", num_classes, TRAIN),
        ("validationSet.csv", "validation", VALIDATION, VALIDATION),
    ):
        clips = [f"{names[i]}/flickr-{folder}_{i}.mp4" for i in range(listed)]
        _write(root / table, "".join(f"{clip},{clip.split('/')[0]},3,0\n" for clip in clips))
        link_scenes([root / folder / clip for clip in clips[:present]], f"moments {folder}")
    return root


def imagenet2012(root: pathlib.Path) -> pathlib.Path:
    """As image-net.org distributes ILSVRC 2012: a tar of tars for training, a flat tar for validation."""
    train = {}
    for i, synset in enumerate(tfds.builder("imagenet2012").info.features["label"].names[:TRAIN]):
        train[f"{synset}.tar"] = tar_of({f"{synset}_{i}.JPEG": _photograph("imagenet train", i % 2)})
    validation = {
        f"ILSVRC2012_val_{i + 1:08d}.JPEG": _photograph("imagenet validation", i % 2) for i in range(VALIDATION)
    }
    _write(root / "ILSVRC2012_img_train.tar", tar_of(train))
    _write(root / "ILSVRC2012_img_val.tar", tar_of(validation))
    return root


def link_scenes(paths: list[pathlib.Path], name: str) -> None:
    """Writes two scenes, and hard links of them under all these paths in turn."""
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        if i < 2:
            _write_scene(path, _scene(f"{name} {i}", num_frames=24))
        else:
            os.link(paths[i % 2], path)


def _write_scene(path: pathlib.Path, frames: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(ENCODERS[path.suffix], rate=12)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = *SIZE_PX, "yuv420p", 400_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _photograph(name: str, i: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_scene(f"{name} {i}", num_frames=1)[0]).save(buffer, "JPEG")
    return buffer.getvalue()


def _scene(name: str, num_frames: int) -> np.ndarray:
    """Smooth random colours that move sideways, uint8 [T, H, W, 3]; another name gives other colours."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    small = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    size = (SIZE_PX[1] + 2 * num_frames, SIZE_PX[0])
    wide = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))

    return np.stack([wide[:, 2 * t : 2 * t + SIZE_PX[1]] for t in range(num_frames)])


def _write(path: pathlib.Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)

"""Miniatures of what the publishers of datasets distribute, with real encoded clips of known grey levels."""

import io
import json
import tarfile

import numpy as np
from PIL import Image

from tests.data_pipelines.clips import write_clip

KINETICS_CLASSES = [f"class {i:03d}" for i in range(397)] + ["riding a bike", "tai chi", "massaging person's head"]
SOMETHING_TEMPLATES = [f"Doing [something] {i:03d} times" for i in range(172)] + [
    "Putting [something] on [something]",
    "Holding [something]",
]


def youtube_id(i: int) -> str:
    """An id as YouTube makes them: eleven characters, a dash and an underscore among them."""
    return f"-_{i:09d}"


def kinetics(root, num_clips=4, test_labels=True):
    """As CVDF has Kinetics-400: annotations/, flat split folders, replacements. Clip i of a split has level 20 + 30 i.

    train.csv lists a clip of each of the 400 classes, of which the first `num_clips` are there; the others list one.
    """
    names = sorted(KINETICS_CLASSES)
    rows = {"train": list(enumerate(names)), "val": [(1000, names[-1])], "test": [(2000, names[0])]}
    for split, clips in rows.items():
        labelled = split != "test" or test_labels
        lines = [f"{'label,' if labelled else ''}youtube_id,time_start,time_end,split"]
        for i, name in clips:
            lines.append(f"{name + ',' if labelled else ''}{youtube_id(i)},{i},{i + 10},{split}")
        _write(root / "annotations" / f"{split}.csv", "\n".join(lines) + "\n")
        for place, (i, _) in enumerate(clips[:num_clips]):
            write_clip(root / split / f"{youtube_id(i)}_{i:06d}_{i + 10:06d}.mp4", level=20 + 30 * place)
    return root


CHARADES_CLASSES = [f"Doing thing {i:03d}" for i in range(155)] + ["Turning left", "Turning right"]


def charades(root, clips=None):
    """Charades: its lists and classes, and ID.mp4 in Charades_v1_480/. Clip i of a split has level 40 + 50 i.

    `clips` are split -> video -> numbers of its classes; a video whose id begins with "lost" is listed, but not there.
    """
    clips = clips or {
        "train": {"AAAA1": [0, 155], "AAAA2": [2], "AAAA3": [], "lost1": [0]},
        "test": {"BBBB1": [0, 2], "BBBB2": [156]},
    }
    _write(root / "Charades_v1_classes.txt", "".join(f"c{i:03d} {name}\n" for i, name in enumerate(CHARADES_CLASSES)))
    for split, videos in clips.items():
        lines = ["id,subject,scene,script,actions,length"]
        for place, (video, labels) in enumerate(videos.items()):
            actions = ";".join(f"c{label:03d} {label}.50 12.60" for label in [*labels, *labels[:1]])
            lines.append(f'{video},S001,Kitchen,"A person turns, and leaves.",{actions},30.1')
            if not video.startswith("lost"):
                write_clip(root / "Charades_v1_480" / f"{video}.mp4", level=40 + 50 * place % 200)
        _write(root / f"Charades_v1_{split}.csv", "\n".join(lines) + "\n")
    return root


EPIC_HEADS = {"verb": 97, "noun": 300}


def epic_kitchens(root, num_actions=8):
    """EPIC-KITCHENS-100: lists, classes and two videos of 8 s at 12 fps; frame i has the level 20 + 2 i.

    Action i of train is from second 0.9 i to 0.9 i + 0.75, of verb i % 4 and noun i % 3; the last one is of a video
    that is not there.
    """
    for head, count in EPIC_HEADS.items():
        rows = [f"{i},{head}:{i},\"['{head}', 'other']\",category" for i in range(count)]
        _write(root / f"EPIC_100_{head}_classes.csv", "\n".join(["id,key,instances,category", *rows]) + "\n")
    columns = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,start_frame,stop_frame,narration"
    for split, person in (("train", "P01"), ("validation", "P02")):
        lines = [f"{columns},verb,verb_class,noun,noun_class,all_nouns"]
        for i in range(num_actions):
            video, start = f"{person}_{'99' if i == num_actions - 1 else '01'}", 0.9 * i
            lines.append(
                f"{video}_{i},{person},{video},00:00:{start:05.2f},00:00:{start + 0.75:05.2f},1,2,open the door,"
                f"open,{i % 4},door,{i % 3},\"['door', 'cup']\""
            )
        _write(root / f"EPIC_100_{split}.csv", "\n".join(lines) + "\n")
        write_clip(root / person / "videos" / f"{person}_01.mp4", level=20, step=2, num_frames=96)
    return root


def something_something(root):
    """Something-Something v2: labels/ and ID.webm; clip 3 of train is missing. Clip i has level 40 i."""
    labels = {template.replace("[", "").replace("]", ""): str(i) for i, template in enumerate(SOMETHING_TEMPLATES)}
    entry = {"label": "holding a cup", "template": "Holding [something]", "placeholders": ["a cup"]}
    put = {"template": "Putting [something] on [something]", "placeholders": ["a cup", "a plate with é"]}
    split_entries = {
        "train": [{"id": "1", **entry}, {"id": "2", **put}, {"id": "3", **put}],
        "validation": [{"id": "4", **put}],
        "test": [{"id": "5"}],
    }
    _write(root / "labels" / "labels.json", json.dumps(labels))
    for split, entries in split_entries.items():
        _write(root / "labels" / f"{split}.json", json.dumps(entries))
    _write(root / "labels" / "test-answers.csv", "5;Holding something\n")
    for i in (1, 2, 4, 5):
        write_clip(root / "20bn-something-something-v2" / f"{i}.webm", level=40 * i)
    return root


def moments_in_time(root):
    """Moments in Time: csv files, categories and clips; one of training's is missing. Levels 50, 100, 150."""
    _write(root / "moments_categories.txt", "clapping,0\nadult+female+singing,1\nbarking,2\n")
    _write(
        root / "trainingSet.csv",
        "adult+female+singing/yt-5of6ffo6-Bw_205.mp4,adult+female+singing,5,0\n"
        "clapping/getty-karate-video-id635808620_4.mp4,clapping,4,1\n"
        "barking/flickr-gone_1.mp4,barking,3,0\n",
    )
    _write(root / "validationSet.csv", "barking/vine-0_1.mp4,barking,12,3\n")
    write_clip(root / "training" / "adult+female+singing" / "yt-5of6ffo6-Bw_205.mp4", level=50)
    write_clip(root / "training" / "clapping" / "getty-karate-video-id635808620_4.mp4", level=100)
    write_clip(root / "validation" / "barking" / "vine-0_1.mp4", level=150)
    return root


def ucf101(root):
    """UCF101: clips as avi, lists with and without numbers; one of the test list is missing. Levels 60, 120, 180."""
    _write(root / "ucfTrainTestlist" / "classInd.txt", "1 Archery\r\n2 Biking\r\n")
    _write(
        root / "ucfTrainTestlist" / "trainlist01.txt",
        "Biking/v_Biking_g08_c01.avi 2\nArchery/v_Archery_g08_c01.avi 1\n",
    )
    _write(root / "ucfTrainTestlist" / "testlist01.txt", "Biking/v_Biking_g01_c01.avi\nBiking/v_Biking_g02_c01.avi\n")
    for level, name in ((60, "v_Archery_g08_c01"), (120, "v_Biking_g08_c01"), (180, "v_Biking_g01_c01")):
        write_clip(root / "UCF-101" / name.split("_")[1] / f"{name}.avi", level=level)
    return root


def imagenet21k(root, tars=True, num_images=150):
    """ImageNet-21k: two synsets as winter21 has them, as tars or as folders. Image j has level j."""
    for synset in ("n02084071", "n00017222"):
        images = {f"{synset}_{j}.JPEG": jpeg(j) for j in range(num_images)}
        root.mkdir(parents=True, exist_ok=True)
        if tars:
            (root / f"{synset}.tar").write_bytes(tar_of(images))
        for name, data in images.items() if not tars else ():
            _write(root / synset / name, data)
    return root


IMAGENET_TRAIN = [("n01440764", 40), ("n01440764", 80), ("n15075141", 120), ("n15075141", 160)]  # synset, level


def imagenet2012(root):
    """ILSVRC 2012: a tar of tars for training, a flat one for validation."""
    root.mkdir(parents=True)
    synsets = {}
    for i, (synset, level) in enumerate(IMAGENET_TRAIN):
        synsets.setdefault(synset, {})[f"{synset}_{i}.JPEG"] = jpeg(level)
    packed = {f"{synset}.tar": tar_of(images) for synset, images in synsets.items()}
    (root / "ILSVRC2012_img_train.tar").write_bytes(tar_of(packed))
    images = {f"ILSVRC2012_val_{i:08d}.JPEG": jpeg(200) for i in (1, 2)}
    (root / "ILSVRC2012_img_val.tar").write_bytes(tar_of(images))
    return root


def jpeg(level: int) -> bytes:
    """An image of 12 x 20 px, grey of one level."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((12, 20, 3), level, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def tar_of(files: dict[str, bytes]) -> bytes:
    """A tar of these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _write(path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)

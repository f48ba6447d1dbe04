import numpy as np
import pytest

from data_pipelines import catalog
from data_pipelines.builders import ucf101_groups
from data_pipelines.leaks import facts
from data_pipelines.media.media_file import Media
from data_pipelines.prepare import __main__ as prepare
from data_pipelines.stream import records
from tests.data_pipelines.clips import write_clip

GROUPS, LABELS = (7, 8, 9), ("Jump", "Walk")
CLIP = ucf101_groups.Clip("Jump/v_Jump_g08_c01.mp4", "Jump", 8, 1)


def media(num_frames):
    return Media(tuple(bytes([i]) for i in range(num_frames)), 12.5, 2 * num_frames, "a hash")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder of prepared datasets, made from two classes of three groups of three clips."""
    root = tmp_path_factory.mktemp("ucf101_groups")
    for group in GROUPS:
        for label in LABELS:
            for number in (1, 2, 3):
                path = root / "source" / label / f"v_{label}_g{group:02d}_c{number:02d}.mp4"
                write_clip(path, level=10 * group, step=2, num_frames=30, rate=25)
    prepare.main(["ucf101_groups", f"--manual_dir={root / 'source'}", f"--data_dir={root / 'data'}"])
    return str(root / "data")


@pytest.mark.parametrize(("name", "per_clip"), [("clips", 1), ("frames", 4), ("motion", 12)])
def test_a_slice_of_a_split_has_whole_groups(prepared, name, per_clip):
    per_group = 2 * len(LABELS) * per_clip
    sources = {}
    for split, part in {"7": "validation", "8": f"train[:{per_group}]", "9": f"train[{per_group}:]"}.items():
        opened = records.open_split(f"ucf101_groups/{name}", part, prepared)
        found = facts.load_facts(opened, facts.pictures_feature(opened.features))["source"]
        sources[split] = [text.decode() if isinstance(text, bytes) else str(text) for text in found]
    for group, found in sources.items():
        assert len(found) == per_group
        assert all(f"_g{int(group):02d}_c01" in text or f"_g{int(group):02d}_c02" in text for text in found)


def test_classes_are_those_of_the_folder_or_of_the_motions(prepared):
    names = {name: records.open_split(f"ucf101_groups/{name}", "train", prepared).class_names
             for name in ("clips", "frames", "motion")}  # fmt: skip
    assert names["clips"] == names["frames"] == LABELS
    assert names["motion"] == tuple(
        f"{order}_{speed}" for order in ("forward", "backward", "shuffled") for speed in ("slow", "fast")
    )
    assert not catalog.is_self_contained("ucf101_groups")


def test_frames_are_the_middles_of_four_parts():
    found = list(ucf101_groups.frames_of(CLIP, media(40)))
    assert [one["frames"] for one in found] == [[bytes([i])] for i in (5, 15, 25, 35)]
    assert {one["label"] for one in found} == {"Jump"} and {one["fps"] for one in found} == {0.0}


@pytest.mark.parametrize("num_frames", [60, 15])
def test_only_the_order_tells_a_motion_from_another_of_its_speed(num_frames):
    found = list(ucf101_groups.motions_of(CLIP, media(num_frames)))
    assert len(found) == 12
    for i in range(0, 12, 3):
        forward, backward, shuffled = ([frame[0] for frame in one["frames"]] for one in found[i : i + 3])
        assert backward == forward[::-1] and sorted(shuffled) == sorted(forward) and len(forward) == 8
        assert shuffled not in (forward, backward)
        labels = [one["label"] for one in found[i : i + 3]]
        stride = 3 if labels[0].endswith("fast") else 1
        assert [label.partition("_")[0] for label in labels] == ["forward", "backward", "shuffled"]
        steps = np.diff(forward)
        assert (steps[: (num_frames - 1 - forward[0]) // stride] == stride).all() and (steps >= 0).all()
        assert forward[-1] < num_frames


def test_a_folder_without_its_clips_is_refused(tmp_path):
    write_clip(tmp_path / "Jump/jump.mp4")
    with pytest.raises(ValueError, match="has no clips named v_CLASS_gGG_cCC, as UCF101's are"):
        ucf101_groups.find(tmp_path)
    write_clip(tmp_path / "Jump/v_Jump_g08_c01.mp4")
    with pytest.raises(ValueError, match=r"has 1 clips v_Jump_g08_cCC; must be at least 2, each once"):
        ucf101_groups.find(tmp_path)

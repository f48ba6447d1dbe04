"""Leaks are found by origin, file and content, are no others, and are left out of training in a way that resumes."""

import dataclasses
import functools
import io
import json
import re
import threading
import tracemalloc
from unittest import mock

import numpy as np
import pytest
import tensorflow_datasets as tfds
from einops import reduce
from PIL import Image, ImageFilter

from data_pipelines.leaks import alignment, equal, facts, kept, perceptual, regions, search
from data_pipelines.prepare import build, schema
from data_pipelines.stream import pipeline, records
from tests.data_pipelines.leaks import copies_table

FPS = 8.0


class Clips(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Clips that a test makes: (frames, facts) of each; `source` is their number."""

    name = "clips"
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, train, validation=(), **kwargs):
        self._clips = {"train": train, **({"validation": validation} if validation else {})}
        super().__init__(**kwargs)

    def _info(self):
        return schema.info(self, ["a"], "video", "Clips of a test.")

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(clips) for split, clips in self._clips.items()}

    def _generate_examples(self, clips):
        for i, (frames, given) in enumerate(clips):
            example = schema.example(frames, "a", str(i), "", FPS, len(frames))
            yield f"{i:06d}", example | given


def make(folder, train, validation=()) -> dict[str, records.Split]:
    """Split -> opened split of these clips."""
    builder = Clips(data_dir=str(folder), train=train, validation=validation)
    build.build_records(builder)
    return {split: records.open_split("clips", split, str(folder)) for split in builder.info.splits}


def numbers(split: records.Split) -> np.ndarray:
    """Index in the split -> number of the clip, which TFDS shuffled."""
    known = facts.load_facts(split)
    return np.array([int(known.text("source", i)) for i in range(len(known))])


load_quick = functools.partial(facts.load_facts, measure=False)  # as a run does


def found_between(validation: records.Split, training: records.Split) -> search.Leaks:
    names = {"v": "frames", "t": "frames"}
    (found,) = search.find_leaks({"t": training}, {"v": validation}, names, facts.load_facts)
    return found


def pairs_of(found: search.Leaks, kind: str, validation, training) -> set[tuple[int, int]]:
    a, b = numbers(validation), numbers(training)
    return {(int(a[i]), int(b[j])) for i, j in found.by[kind]}


def jpeg(frame: np.ndarray, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def scene(rng: np.random.Generator, num_frames: int = 12, size_px: int = 48) -> np.ndarray:
    """Patches that drift over a cloudy background, as uint8 [T, H, W, 3]: each clip another."""
    cloud = rng.normal(size=(6, 6)).astype(np.float32)
    background = np.asarray(Image.fromarray(cloud).resize((size_px, size_px), Image.Resampling.BICUBIC))
    frames = np.repeat((128 + 30 * background)[None], num_frames, 0)
    y, x = np.mgrid[:size_px, :size_px]
    for _ in range(3):
        start, end = rng.uniform(0.1, 0.9, (2, 2)) * size_px
        width, level, period = rng.uniform(3, 8), rng.uniform(-90, 90), rng.uniform(4, 12)
        for t in range(num_frames):
            cy, cx = start + (end - start) * t / num_frames + 3 * np.sin(t * 2 * np.pi / period)
            frames[t] += level * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / width**2)
    return np.repeat(np.clip(frames, 0, 255).astype(np.uint8)[..., None], 3, -1)


def reencoded(frames: np.ndarray, rng: np.random.Generator) -> list[bytes]:
    """The clip as others would have it: from a little later on, a border cut off, another size, brightness, quality."""
    height_px, width_px = frames.shape[1:3]
    top, left, bottom, right = rng.integers(0, 2, 4)
    new_px, gain, lift = int(rng.integers(40, 72)), rng.uniform(0.85, 1.15), rng.uniform(-12, 12)
    copies = []
    for frame in frames[rng.integers(0, 2) :]:
        image = Image.fromarray(frame[top : height_px - bottom, left : width_px - right]).resize((new_px, new_px))
        image = image.filter(ImageFilter.GaussianBlur(0.3))
        bright = np.clip(np.asarray(image, np.float32) * gain + lift, 0, 255).astype(np.uint8)
        copies.append(jpeg(bright, int(rng.integers(35, 80))))
    return copies


def plain(frames: np.ndarray) -> tuple[list[bytes], dict]:
    return [jpeg(frame) for frame in frames], {}


def of_youtube(rng, source_id: str, start_s: float, end_s: float) -> tuple[list[bytes], dict]:
    frames, _ = plain(scene(rng, num_frames=2))
    return frames, {"source_id": source_id, "source_start_s": start_s, "source_end_s": end_s}


def test_one_original_is_a_leak_where_its_times_overlap(tmp_path):
    rng = np.random.default_rng(0)
    stored = [("aaaaaaaaaaa", 10, 20), ("bbbbbbbbbbb", 0, 0), ("", 0, 10), ("aaaaaaaaaaa", 30, 40)]
    wanted = [("aaaaaaaaaaa", 15, 25), ("aaaaaaaaaaa", 20, 30), ("bbbbbbbbbbb", 5, 15), ("", 0, 10)]
    train = make(tmp_path / "t", [of_youtube(rng, *given) for given in stored])["train"]
    val = make(tmp_path / "v", [of_youtube(rng, *given) for given in wanted])["train"]
    found = found_between(val, train)
    assert pairs_of(found, "origin", val, train) == {(0, 0), (2, 1)}  # 20 to 30 touches both, and overlaps neither
    assert found.other_moments == 3
    assert not len(found.by["file"]) and not len(found.by["content"])


def test_equal_files_are_found_by_their_hash_and_told_once(tmp_path):
    rng = np.random.default_rng(1)
    clips = [(frames, {"source_sha256": f"{i:064d}"}) for i, (frames, _) in enumerate(plain(scene(rng)) for _ in "ab")]
    both = [make(tmp_path / name, clips[first:])["train"] for name, first in (("v", 0), ("t", 1))]
    found = found_between(*both)
    assert pairs_of(found, "file", *both) == {(1, 0)}
    assert len(found.pairs) == 1  # by content as well, but already told
    (line,) = search.report_lines([found.summary()])
    assert "1 validation examples of v are also 1 training examples of t (1 by file)" in line


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Splits of 60 validation clips, and of 300 training clips of which 0..39 are re-encoded from validation's."""
    rng = np.random.default_rng(2)
    folder = tmp_path_factory.mktemp("planted")
    val = [scene(rng) for _ in range(60)]
    train = [(reencoded(frames, rng), {}) for frames in val[:40]] + [plain(scene(rng)) for _ in range(260)]
    return make(folder / "v", [plain(frames) for frames in val])["train"], make(folder / "t", train)["train"]


def test_reencoded_copies_are_found_and_nothing_else(planted):
    found = pairs_of(found_between(*planted), "content", *planted)
    assert found <= {(i, i) for i in range(40)}
    assert len(found) >= 0.99 * 40


def test_what_was_found_is_kept_and_no_facts_are_read_for_it(planted, monkeypatch):
    before = found_between(*planted)
    monkeypatch.setattr(facts, "load_facts", lambda *_: pytest.fail("facts are read"))
    again = found_between(*planted)
    assert again.to_json() == before.to_json()
    (pair,) = search.pairs_to_compare({"t": planted[1]}, {"v": planted[0]})
    read = []
    monkeypatch.setattr(facts, "read_kept", lambda path: read.append(path) or path.read_bytes())
    assert kept.load([pair])[0].to_json() == before.to_json()
    assert read == [pair.path]  # one request per pair


def test_a_damaged_result_is_noticed_and_searched_again(with_own_copies):
    before = own_leaks(with_own_copies)
    (pair,) = search.pairs_to_compare({"d": with_own_copies["train"]}, {"d": with_own_copies["validation"]})
    sound = pair.path.read_bytes()
    rng = np.random.default_rng(3)
    for _ in range(200):
        flipped = bytearray(sound)
        flipped[rng.integers(len(sound))] ^= 1 << rng.integers(8)
        pair.path.write_bytes(bytes(flipped))
        (loaded,) = kept.load([pair])
        assert loaded is None or loaded.to_json() == before.to_json()  # a flip in white space changes nothing
    without_checksum = json.dumps({"by": {kind: [] for kind in kept.KINDS}, "other_moments": 0}).encode()
    for damaged in (without_checksum, sound[:-9], b"[1]", b""):
        pair.path.write_bytes(damaged)
        assert kept.load([pair]) == [None]
    assert own_leaks(with_own_copies).to_json() == before.to_json()
    assert pair.path.read_bytes() == sound


def test_facts_are_read_in_parallel_and_each_file_once(planted, monkeypatch):
    facts.load_facts(planted[1])
    whole = threading.Barrier(2, timeout=60)

    def load(shard, loaded=facts._load):
        whole.wait()  # passes only if two shards are read at the same time
        return loaded(shard)

    monkeypatch.setattr(facts, "_load", load)
    double = dataclasses.replace(planted[1], paths=planted[1].paths * 2)
    assert len(facts.load_facts(double)) == 300


def test_clips_with_a_few_frames_in_common_by_chance_are_not_decoded():
    """As a test picture or a title that many clips have: one of ten frames is equal, the others are not."""
    rng = np.random.default_rng(8)
    values = rng.integers(0, 1 << 63, (200, 10), np.uint64)
    stored = rng.integers(0, 1 << 63, (300, 10), np.uint64)
    stored[:, 3], values[:, 4], stored[:, 5], values[:, 6] = 12345, 12345, 98765, 98765
    stored[:7] = values[:7] ^ np.uint64(1 << 40)
    wanted = perceptual.Hashes(values.ravel(), np.repeat(np.arange(200), 10))
    pairs, _ = perceptual.similar_clips(wanted, perceptual.Hashes(stored.ravel(), np.repeat(np.arange(300), 10)))
    assert pairs.tolist() == [[i, i] for i in range(7)]


def test_no_more_pairs_are_compared_than_stated_and_that_is_said(planted, monkeypatch):
    monkeypatch.setattr(search, "MAX_COMPARED", 25)
    monkeypatch.setattr(kept, "load", lambda pairs: [None] * len(pairs))
    monkeypatch.setattr(kept, "save", lambda pair, found: None)
    found = found_between(*planted)
    assert 0 < len(found.by["content"]) <= 25
    assert re.fullmatch(r"comparing clips with clips: \d+ pairs of clips .* were not compared", found.unchecked)


def test_parts_and_blocks_do_not_change_what_is_found(monkeypatch):
    rng = np.random.default_rng(9)
    values, stored = rng.integers(0, 1 << 12, (2, 40, 6)).astype(np.uint64) * np.uint64(0x0123456789AB)
    sides = [perceptual.Hashes(side.ravel(), np.repeat(np.arange(40), 6)) for side in (values, stored)]
    sides[1].values[:60] = sides[0].values[60:120]
    whole, _ = perceptual.similar_clips(*sides)
    assert len(whole) >= 10
    parts = []
    monkeypatch.setattr(perceptual, "BLOCK_HASHES", 50)
    monkeypatch.setattr(perceptual, "PART_HITS", 20)
    pieces, _ = perceptual.similar_clips(*sides, track=lambda part: parts.extend(part) or part)
    assert set(map(tuple, pieces.tolist())) == set(map(tuple, whole.tolist()))
    assert len(parts) > 8


def test_leaks_are_left_out_of_training_in_every_epoch_on_any_number_of_hosts(planted, dataset):
    val, train = planted
    found = found_between(val, train)
    left = search.exclude({"t": train}, [found])["t"]
    assert left.num_examples == 300 - len(np.unique(found.pairs[:, 1])) and left.num_excluded == 300 - left.num_examples
    assert left.fingerprint != train.fingerprint
    dataset.canvas_px, epoch = (72, 72), -(-left.num_examples // 8)

    def indices(options=pipeline.ONE_HOST):
        with pipeline.train_stream(left, dataset, name="t", seed=0, first_batch=0, options=options) as stream:
            return np.stack([next(stream)["index"] for _ in range(epoch)])

    whole = indices()
    assert sorted(whole.ravel()[: left.num_examples]) == list(range(left.num_examples))
    halves = [indices(pipeline.ReadOptions(i, host_count=2)) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), whole)
    kept = set(zip(left.shards.tolist(), left.offsets.tolist(), strict=True))
    assert not kept & {(int(train.shards[i]), int(train.offsets[i])) for i in found.pairs[:, 1]}


def test_nothing_left_is_refused_and_nothing_excluded_changes_nothing(numbered):
    assert records.exclude(numbered, []) is numbered
    with pytest.raises(ValueError, match="all 97 examples of 'numbered' 'train' would be left out"):
        records.exclude(numbered, np.arange(97))


def test_other_leaks_give_another_fingerprint(numbered):
    assert len({records.exclude(numbered, indices).fingerprint for indices in ([], [1], [2], [1, 2])}) == 4
    assert records.exclude(numbered, [2, 1, 2]).fingerprint == records.exclude(numbered, [1, 2]).fingerprint


def test_digits_of_the_demo_are_compared_and_have_no_leaks(digits_dir):
    names = {config: f"digits/{config}" for config in ("appearance", "motion", "images")}
    splits = {
        split: {name: records.open_split(builder, split, digits_dir) for name, builder in names.items()}
        for split in ("train", "validation")
    }
    features = dict.fromkeys(names, "frames")
    found = search.find_leaks(splits["train"], splits["validation"], features, load_quick)
    assert [(leak.validation, leak.training) for leak in found] == [("appearance", "motion"), ("motion", "appearance")]
    assert not sum(len(leak.pairs) for leak in found)
    lines = search.report_lines([pair.summary() for pair in found])
    assert any("pictures below 32 px are compared only by origin and file" in line for line in lines)


def test_large_data_that_is_not_measured_is_not_compared_and_that_is_said(planted, monkeypatch, tmp_path):
    monkeypatch.setattr(facts, "QUICK_BYTES", 0)
    fresh = make(tmp_path, [plain(scene(np.random.default_rng(4)))])["train"]
    (found,) = search.find_leaks({"t": fresh}, {"v": planted[0]}, {"t": "frames", "v": "frames"}, load_quick)
    assert not len(found.pairs)
    assert "clips is not measured; `python -m data_pipelines.doctor clips` measures it" in found.unchecked


def test_another_take_of_a_movement_is_not_the_same_clip():
    rng = np.random.default_rng(5)
    first = alignment.Clip(_thumbs(scene(rng, 24)), FPS)
    assert alignment.compare(
        first, dataclasses.replace(first, thumbs=first.thumbs + rng.normal(0, 2, (24, 32, 32)))
    ).same
    background = first.thumbs.mean(0)
    other_take = background + (first.thumbs - background)[rng.permutation(24)]
    assert not alignment.compare(first, alignment.Clip(other_take, FPS)).same
    assert not alignment.compare(first, alignment.Clip(first.thumbs[:, :, ::-1], FPS)).same


def _thumbs(frames: np.ndarray) -> np.ndarray:
    images = [Image.fromarray(frame).convert("L").resize((32, 32), Image.Resampling.BOX) for frame in frames]
    return np.stack([np.asarray(image, np.float32) for image in images])


def test_hashes_within_five_bits_are_always_found():
    rng = np.random.default_rng(6)
    stored = rng.integers(0, 1 << 63, 2000, np.uint64)
    flips = np.array(
        [np.bitwise_or.reduce(np.uint64(1) << rng.permutation(63)[:5].astype(np.uint64)) for _ in range(300)]
    )
    wanted = perceptual.Hashes(stored[:300] ^ flips, np.arange(300))
    pairs, shares = perceptual.similar_clips(wanted, perceptual.Hashes(stored, np.arange(2000)))
    assert (shares == 1).all()
    assert pairs.tolist() == [[i, i] for i in range(300)]


def test_black_frames_have_no_hash():
    assert perceptual.frame_hashes(np.zeros((3, 32, 32))).tolist() == [perceptual.NO_HASH] * 3
    assert not len(facts._hashes(np.zeros((3, 96, 96), np.uint8)))


def test_the_hash_of_a_mirrored_frame_is_known_without_the_frame():
    thumbs = _thumbs(scene(np.random.default_rng(10)))
    hashes = perceptual.Hashes(perceptual.frame_hashes(thumbs), np.zeros(len(thumbs), int))
    flipped = perceptual.frame_hashes(thumbs[:, :, ::-1])
    assert np.bitwise_count(perceptual.mirrored(hashes).values ^ flipped).max() <= 2  # rounding
    np.testing.assert_array_equal(perceptual.mirrored(perceptual.mirrored(hashes)).values, hashes.values)


def test_black_bars_are_trimmed_and_dark_content_is_not():
    frames = np.full((4, 96, 96), 3, np.uint8)
    frames[:, 12:90, 20:76] = 80
    frames[:, 12:90, 20:48] = 4  # a dark half
    frames[1, 40, 25] = frames[2, 50, 90] = 255  # specks
    assert regions.content_box(frames) == (12, 90, 0, 76)  # 48 columns are more than a bar
    frames[0, 60:80, 20:48] = 30
    assert regions.content_box(frames) == (12, 90, 20, 76)
    assert regions.content_box(frames * 0) == (0, 96, 0, 96)
    thumbs = regions.thumbs(frames[:1], (12, 90, 20, 76), 0.0)
    assert (
        thumbs.shape == (1, 32, 32)
        and thumbs[0, :, 16:].min() == pytest.approx(80)
        and thumbs[0, 0, :15].max() == pytest.approx(4)
    )
    np.testing.assert_allclose(regions.thumbs(frames, (0, 96, 0, 96), 0.0), block_means(frames), rtol=1e-5)


def block_means(frames: np.ndarray) -> np.ndarray:
    return reduce(frames.astype(np.float32), "t (h i) (w j) -> t h w", "mean", i=3, j=3)


@pytest.fixture(scope="module")
def with_own_copies(tmp_path_factory) -> dict[str, records.Split]:
    """Of 3 validation clips, the first has a training clip's file, and the second is a training clip re-encoded."""
    rng = np.random.default_rng(11)
    clips = [scene(rng) for _ in range(6)]
    train = [(plain(clip)[0], {"source_sha256": f"{i:064d}"}) for i, clip in enumerate(clips[:5])]
    val = [train[0], (reencoded(clips[1], rng), {"source_sha256": "1" * 64}), plain(clips[5])]
    return make(tmp_path_factory.mktemp("own"), train, val)


def own_leaks(splits: dict[str, records.Split], **kwargs) -> search.Leaks:
    (found,) = search.find_leaks(
        {"d": splits["train"]}, {"d": splits["validation"]}, {"d": "frames"}, facts.load_facts, **kwargs
    )
    return found


def test_copies_within_a_dataset_are_found_by_file_and_by_the_doctor_by_content(with_own_copies):
    train, val = with_own_copies["train"], with_own_copies["validation"]
    found = own_leaks(with_own_copies)
    assert pairs_of(found, "file", val, train) == {(0, 0)} and len(found.pairs) == 1
    (line,) = search.report_lines([found.summary()])
    assert line == "leaks: 1 validation examples of d are also 1 of its own training examples (1 by file)"
    assert search.exclude({"d": train}, [found])["d"].num_examples == 4
    thorough = own_leaks(with_own_copies, own_content=True)
    assert pairs_of(thorough, "file", val, train) == {(0, 0)}
    assert pairs_of(thorough, "content", val, train) == {(1, 1)}
    assert own_leaks(with_own_copies).to_json() == thorough.to_json()  # a run uses what the doctor has found


def test_clips_with_equal_hashes_are_compared_through_one_of_them_and_all_found(tmp_path, monkeypatch):
    """Three training clips have the pictures of one validation clip; one of these has its file, too."""
    monkeypatch.setattr(equal, "MAX_EQUAL", 1)
    rng = np.random.default_rng(14)
    copied, other, third = (plain(scene(rng))[0] for _ in range(3))
    files = [{"source_sha256": f"{i:064d}"} for i in range(6)]
    train = make(tmp_path / "t", [(copied, files[i]) for i in range(3)] + [(other, files[3])])["train"]
    wanted = [(copied, files[1]), (copied, files[4]), (third, files[5])]
    val = make(tmp_path / "v", wanted)["train"]
    found = found_between(val, train)
    assert pairs_of(found, "file", val, train) == {(0, 1)}
    all_found = pairs_of(found, "file", val, train) | pairs_of(found, "content", val, train)
    assert {i for i, _ in all_found} == {0, 1} and {j for _, j in all_found} == {0, 1, 2}


NUM_EQUAL = 3000  # on both sides: 9,000,000 pairs


def many_equal(monkeypatch, **columns) -> tuple[search.Leaks, int]:
    """What is found between two splits of NUM_EQUAL clips with equal hashes, and how many pairs were aligned."""
    aligned = []
    monkeypatch.setattr(kept, "load", lambda pairs: [None] * len(pairs))
    monkeypatch.setattr(kept, "save", lambda pair, found: None)
    monkeypatch.setattr(search, "_read_clip", lambda side, index, view: index)
    monkeypatch.setattr(alignment, "same_at_any_speed", lambda *_: aligned.append(1) or True)
    hashes = np.random.default_rng(15).integers(1, 1 << 63, (4, len(regions.INSETS)), np.uint64)
    clips = np.repeat(np.arange(NUM_EQUAL), len(hashes))
    sides = {}
    for side in ("v", "t"):
        texts = {name: np.full(NUM_EQUAL, b"", "S64") for name in ("source_sha256", "source_id", "reason")}
        zeros = {name: np.zeros(NUM_EQUAL) for name in ("source_start_s", "source_end_s", "label", "offset")}
        sizes = {name: np.full(NUM_EQUAL, 64) for name in ("height_px", "width_px")}
        known = texts | zeros | sizes | {name: column(side) for name, column in columns.items()}
        of_all = np.tile(hashes, (NUM_EQUAL, 1))
        sides[side] = facts.Facts(known, of_all, clips, known["label"], np.arange(NUM_EQUAL))
    splits = {side: mock.Mock(builder=side, modality="video", features=()) for side in sides}
    tracemalloc.start()
    try:
        (found,) = search.find_leaks(
            {"t": splits["t"]},
            {"v": splits["v"]},
            {"t": "frames", "v": "frames"},
            lambda split, _: sides[split.builder],
        )
        stored = json.dumps(found.to_json())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100e6 and len(stored) < 40 * NUM_EQUAL
    assert found.summary()["validation_examples"] == found.summary()["training_examples"] == NUM_EQUAL
    assert len(found.pairs) == 2 * NUM_EQUAL - 1
    return found, len(aligned)


def test_many_equal_files_are_listed_as_a_group(monkeypatch):
    found, aligned = many_equal(monkeypatch, source_sha256=lambda _: np.full(NUM_EQUAL, b"1" * 64))
    assert len(found.by["file"]) == 2 * NUM_EQUAL - 1
    assert aligned == 0  # it is known without a look at the clips


def test_many_clips_with_equal_hashes_are_listed_and_compared_as_a_group(monkeypatch):
    numbered = lambda side: np.array([f"{side}{i}".encode() for i in range(NUM_EQUAL)])  # noqa: E731
    found, aligned = many_equal(monkeypatch, source_sha256=numbered)
    assert len(found.by["content"]) == aligned == 2 * NUM_EQUAL - 1


def test_many_clips_of_one_original_are_listed_as_a_group(monkeypatch):
    found, aligned = many_equal(monkeypatch, source_id=lambda _: np.full(NUM_EQUAL, b"an original"))
    assert len(found.by["origin"]) == 2 * NUM_EQUAL - 1 and aligned == 0


@pytest.mark.parametrize("part_pairs", [1, 7, 1 << 18])
def test_links_have_every_example_that_a_list_of_all_pairs_has(monkeypatch, part_pairs):
    monkeypatch.setattr(equal, "PART_PAIRS", part_pairs)
    rng = np.random.default_rng(16)
    for _ in range(50):
        wanted, stored = (
            np.array([b"", b"a", b"b", b"c", b"d"])[rng.integers(0, 5, n)] for n in rng.integers(1, 20, 2)
        )
        true = rng.random((len(wanted), len(stored))) < 0.5
        same = (wanted[:, None] == stored) & (wanted != b"")[:, None]
        links = equal.link(wanted, stored)
        some, others = equal.link_where(wanted, stored, lambda pairs, true=true: true[pairs[:, 0], pairs[:, 1]])
        for linked, all_pairs in ((links, same), (some, same & true)):
            assert all_pairs[linked[:, 0], linked[:, 1]].all()
            assert len(linked) <= len(wanted) + len(stored)
            for side in (0, 1):
                np.testing.assert_array_equal(np.unique(linked[:, side]), np.flatnonzero(all_pairs.any(1 - side)))
        assert others == (same & ~true).sum()


def test_one_clip_stands_for_those_with_equal_hashes_in_equal_order(monkeypatch):
    monkeypatch.setattr(equal, "MAX_EQUAL", 2)
    one, other = np.array([[1, 2], [3, 4]], np.uint64), np.array([[3, 4], [1, 2]], np.uint64)
    hashes = {5: one, 0: one, 3: other, 1: one[:1], 4: one, 6: other}  # clip 2 has none
    clips = np.concatenate([np.full(len(of), clip) for clip, of in hashes.items()])
    found = equal.representatives(np.concatenate(list(hashes.values())), clips, 7)
    assert found.tolist() == [0, 1, 2, 3, 0, 0, 6]
    pairs, of = equal.members(np.array([[8, 6], [9, 0], [7, 0]]), found, side=1)
    assert pairs.tolist() == [[9, 4], [9, 5]] and of.tolist() == [1, 1]


COPIES = {
    "mirrored": lambda frames: frames[:, :, ::-1],
    "letterboxed": lambda frames: np.pad(frames, ((0, 0), (8, 8), (0, 0), (0, 0))),
    "pillarboxed": lambda frames: np.pad(frames, ((0, 0), (0, 0), (8, 8), (0, 0))),  # 4:3 in 16:9
    "cropped by 10 % a side": lambda frames: frames[:, 5:-5, 5:-5],
    "with a logo": lambda frames: with_logo(frames),
    "at double speed": lambda frames: frames[::2],
}


def with_logo(frames: np.ndarray) -> np.ndarray:
    frames = frames.copy()
    frames[:, 3:9, 36:45] = 230
    frames[:, 5:7, 38:43] = 20
    return frames


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> tuple[list[np.ndarray], records.Split]:
    """30 clips, and a training split of them."""
    rng = np.random.default_rng(12)
    clips = [scene(rng, num_frames=16) for _ in range(30)]
    return clips, make(tmp_path_factory.mktemp("originals"), [plain(clip) for clip in clips])["train"]


@pytest.mark.parametrize(
    "change", ["letterboxed", *(pytest.param(name, marks=pytest.mark.slow) for name in COPIES if name != "letterboxed")]
)
def test_changed_copies_are_found_and_nothing_else(originals, tmp_path, change):
    """At least 12 of 15."""
    clips, train = originals
    rng = np.random.default_rng(13)
    val = make(tmp_path, [(reencoded(COPIES[change](clip), rng), {}) for clip in clips[:15]])["train"]
    found = pairs_of(found_between(val, train), "content", val, train)
    assert found <= {(i, i) for i in range(15)}
    assert len(found) >= 12


def test_the_table_of_copies_is_the_one_that_its_command_writes():
    page = copies_table.PAGE.read_text()
    rows = copies_table.rows_of(page)
    assert list(rows) == list(copies_table.CHANGES)
    assert copies_table.written(page, rows) == page
    assert copies_table.rows_of(copies_table.written(page, {"a": ["1", "2", "3"]})) == {"a": ["1", "2", "3"]}
    with pytest.raises(ValueError, match="one pair of markers"):
        copies_table.written(page.replace(copies_table.END, ""), rows)


@pytest.mark.slow
def test_none_of_ten_thousand_distinct_clips_is_called_a_leak(tmp_path):
    """100 validation clips, all copied into 10,000 distinct training clips."""
    rng = np.random.default_rng(7)
    val = [scene(rng, 8, 40) for _ in range(100)]
    train = [(reencoded(frames, rng), {}) for frames in val]
    train += [plain(scene(rng, 8, 40)) for _ in range(10_000)]
    both = make(tmp_path / "v", [plain(frames) for frames in val])["train"], make(tmp_path / "t", train)["train"]
    found = pairs_of(found_between(*both), "content", *both)
    assert found <= {(i, i) for i in range(100)}
    assert len(found) >= 99

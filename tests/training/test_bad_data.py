"""Examples that cannot be decoded are told with file and reason, counted over restarts, and too many end the run."""

import numpy as np
import pytest

from cover_jax.checkpoint import restore
from cover_jax.training import health
from data_pipelines.stream import records
from tests.helpers import tiny_run


def test_each_example_counts_once_however_often_it_comes():
    bad = {}
    for found in ([-1, 7, -1, 7], [3, -1], [-1, -1], [7]):
        health.add_undecodable(bad, {"a": np.array(found, np.int32), "b": np.array([-1])})
    assert bad == {"a": [3, 7]}


def test_only_more_than_the_share_is_too_many():
    health.check_undecodable(0.02, 0, {"a": [4, 8], "b": []}, {"a": 100, "b": 5})
    health.check_undecodable(0.0, 0, {}, {"a": 100})
    message = r"step 5 on a: 3 of its 100 training .* \(config.input.max_bad_share=0.02\): 4, 8, 9; "
    with pytest.raises(health.BadDataError, match=message):
        health.check_undecodable(0.02, 4, {"b": [1], "a": [4, 8, 9]}, {"a": 100, "b": 200})


@pytest.mark.slow
def test_damage_is_told_with_file_and_reason_and_remembered_by_the_next_start(tmp_path, capfd):
    """Of 48 images in 6 batches three are damaged. They weigh nothing, and a stricter restart ends at once."""
    tiny_run.prepare_data(tmp_path)
    split = records.open_split("digits/images", "train", str(tmp_path))
    tiny_run.damage(split, [5, 17, 40])
    config = tiny_run.config(tmp_path, ("images",), steps=6, input__max_bad_share=3 / 48)
    run = tiny_run.Intercepted()
    run.train(config, tmp_path / "work")
    said = [line for line in capfd.readouterr().out.splitlines() if "cannot be decoded" in line]
    assert sorted(said) == sorted(
        f"host 0: images: example {i} cannot be decoded and weighs nothing: {split.paths[0]} at byte "
        f"{split.offsets[i]}: corrupted record at {split.offsets[i] + records.HEADER_BYTES}"
        for i in (5, 17, 40)
    )
    assert restore.newest(str(tmp_path / "work"))[1]["history"]["bad"] == {"images": [5, 17, 40]}
    config.steps, config.input.max_bad_share = 9, 0.05
    with pytest.raises(health.BadDataError, match="step 7 on images: 3 of its 48 .*: 5, 17, 40; "):
        run.train(config, tmp_path / "work")

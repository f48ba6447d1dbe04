"""A run chooses the canvases that its config leaves to it, and says how much frames are enlarged."""

from cover_jax.training import progress
from cover_jax.training.run import Run
from tests.helpers import tiny_run


def test_a_run_chooses_the_canvas_from_its_records(tmp_path, capsys):
    tiny_run.prepare_data(tmp_path)
    config = tiny_run.config(tmp_path, model__size_px=32, datasets__motion__canvas_px=(0, 0))
    config.datasets.images.canvas_px = (20, 24)
    run = Run(config, str(tmp_path / "run"))
    assert run.config.datasets.motion.canvas_px == (16, 16)  # as stored
    assert run.config.datasets.images.canvas_px == (20, 24)  # as given
    assert run.setup.train_batch("motion")["frames"].shape == (8, 4, 16, 16, 3)
    assert run.meta["config"]["datasets"]["motion"]["canvas_px"] == [16, 16]
    state, history = run.restore_or_init()
    capsys.readouterr()
    progress.describe_run(run, state, history.batch_schedule)
    said = capsys.readouterr().out
    for name, measured in (("motion", "2 in training, 2 in evaluation"), ("images", "2 in training")):
        assert (
            f"WARNING: {name}: median enlargement {measured}: its frames have no more pixels than a median of 16"
            in said
        )

"""`--config=tests/tiny_config.py`: tests/tiny_run.py's run, for processes of their own."""

from configs import demo


def get_config():
    config = demo.get_config()
    del config.datasets.appearance, config.datasets.motion
    config.plan, config.steps, config.log_every_steps, config.checkpoint_every_steps = "joint", 8, 1, 2
    config.eval_every_steps, config.optimizer.warmup_steps, config.input.leaks = 1000, 1, "ignore"
    config.datasets.images.batch_size = config.datasets.images.eval_batch_size = 8
    config.model.num_frames, config.model.size_px = 1, 8
    return config

"""`--config=tests/helpers/tiny_config.py:DATASETS`: a tiny version of the demo, for separate processes."""

from configs import demo


def get_config(datasets="images"):
    config = demo.get_config()
    for name in set(config.datasets) - set(datasets.split(",")):
        del config.datasets[name]
    config.plan, config.steps, config.log_every_steps, config.checkpoint_every_steps = "joint", 8, 1, 2
    config.eval_every_steps, config.optimizer.warmup_steps, config.input.leaks = 1000, 1, "ignore"
    for dataset in config.datasets.values():
        dataset.batch_size = dataset.eval_batch_size = 8
    config.model.num_frames, config.model.size_px = max(d.num_frames for d in config.datasets.values()), 8
    return config

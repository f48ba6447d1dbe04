"""CoVeR-B/16, 8 frames at 224 px: the mix of cover_l.py at a size for fewer chips, with the same words as argument.

    python -m cover_jax.main --config=configs/cover_b.py --workdir=gs://BUCKET/cover_b --distributed

With `stage2` it is 448 px, as there. TimeSformer's own base setting is 8 frames at 224 px (arXiv 2102.05095).
Everything else is as in cover_l.py. It is this project's choice and has no result so far.
"""

from configs import cover_l


def get_config(argument: str = "", config_file: str = "configs/cover_b.py"):
    config = cover_l.get_config(argument, config_file)
    for dataset in config.datasets.values():
        dataset.num_frames = min(dataset.num_frames, 8)
    config.model.variant = "B/16"
    cover_l.start_from(config, cover_l.AUGREG + "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0.npz")
    if config.model.init_from:  # the only stage, or the first
        config.model.size_px = 224
    config.model.num_frames = 8
    config.mesh.fsdp = 1
    return config

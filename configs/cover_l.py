"""CoVeR-L/16, 16 frames at 448 px, co-trained on Kinetics, Something-Something v2, Moments in Time and ImageNet.

    python -m cover_jax.main --config=configs/cover_l.py --workdir=gs://BUCKET/cover_l --distributed
    python -m cover_jax.main --config=configs/cover_l.py:k600 ...    (or :k700: the mix with Kinetics-700)

Hardware: a TPU pod slice; 429.9 M parameters, 35 TFLOP per clip and training step (computed from the shapes).

The model is derived from a table in another paper (UniFormerV2, arXiv 2211.09552: 448 px, 16 frames, 1 x 3 views, 431 M
parameters). ViT-L/16 with TimeSformer's temporal attention has that size. The rest is this project's choice: the
paper's abstract (arXiv 2112.07175) does not state the optimizer, the schedule or how batches are drawn. The paper
reports 87.2 (K400), 87.9 (K600), 79.8 (K700), 70.9 (SSv2), 46.1 (Moments) with larger image data. Nobody has run this
config yet, so no result can be promised.
"""

from configs import common, datasets

# ImageNet-21K weights of "How to train your ViT?" (arXiv 2106.10270). For each size they are the best by pre-training
# metrics, in the table in README.md of google-research/vision_transformer. For a copy on disk use
# --config.model.init_from=FILE.
AUGREG = "gs://vit_models/augreg/"

KINETICS = {"k400": 400, "k600": 600, "k700": 700}


def get_config(kinetics: str = "k400"):
    if kinetics not in KINETICS:
        raise ValueError(f"configs/cover_l.py:{kinetics}: must be one of {', '.join(KINETICS)}")
    config = common.get_config()
    config.steps = 60_000
    config.eval_every_steps = 10_000

    # Shares of the steps. 60,000 steps are about 26 epochs of K400, 23 of SSv2, 4 of Moments and 7 of ImageNet.
    video = {"batch_size": 256, "eval_crops": 3}
    config.datasets[kinetics] = datasets.kinetics(KINETICS[kinetics], weight=0.4, **video)
    config.datasets.ssv2 = datasets.something_something_v2(weight=0.25, **video)
    config.datasets.mit = datasets.moments_in_time(weight=0.2, **video)
    config.datasets.imagenet = datasets.imagenet(weight=0.15, batch_size=1024, eval_batch_size=256)

    config.model.variant = "L/16"
    config.model.size_px = 448
    config.model.num_frames = 16
    config.model.drop_path = 0.1
    config.model.init_from = AUGREG + "L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0.npz"
    config.model.temporal_init = "zeros"
    config.model.remat = "attention"  # four clips per chip fit in 16 GiB: cover_jax/plan/README.md

    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.warmup_steps = 2_500
    config.optimizer.momentum = 0.9
    config.optimizer.clip_norm = 1.0

    config.mesh.fsdp = 8  # parameters and optimizer state over 8 chips, the batch over all of them
    return config

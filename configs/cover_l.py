"""CoVeR-L/16, 16 frames, co-trained on Kinetics, Something-Something v2, Moments in Time and ImageNet.

Two stages, 224 px for long and then 448 px for a tenth of the steps, the second from the best checkpoint of the first:

    python -m cover_jax.main --config=configs/cover_l.py:stage1 --workdir=gs://BUCKET/stage1 --distributed
    python -m cover_jax.main --config=configs/cover_l.py:stage2 --workdir=gs://BUCKET/stage2 --distributed \\
        --config.model.init_from=gs://BUCKET/stage1@best

One short stage at 448 px, as in version 0.1, for comparisons and ablations:

    python -m cover_jax.main --config=configs/cover_l.py --workdir=gs://BUCKET/cover_l --distributed

More words after the colon, with commas between them: k400 (the default), k600 or k700, which Kinetics; imagenet21k in
place of imagenet; mit339, the first release of Moments in Time, in place of mit305. For example: `stage1,k600,mit339`.

Hardware: a TPU pod slice; 429.9 M parameters; at 448 px 35 TFLOP per clip and training step, at 224 px 8.3 (computed
from the shapes). configs/README.md has the epochs of each dataset.

The model is derived from a table in another paper (UniFormerV2, arXiv 2211.09552: 448 px, 16 frames, 1 x 3 views, 431 M
parameters). ViT-L/16 with TimeSformer's temporal attention has that size. The rest is this project's choice, as the
paper's abstract (arXiv 2112.07175) does not state the optimizer, the schedule or how batches are drawn. Where a value
follows a neighbour, its name stands beside it. The paper's accuracies are in cover_jax/study/RESULTS.md. Nobody has run
these configs yet, so no result can be promised.

Neighbours, with the files of their recipes:
    ViViT-L    google-research/scenic, projects/vivit/configs/kinetics400 and something_something_v2,
               vivit_large_factorised_encoder.py
    MTV        google-research/scenic, projects/mtv/configs: kinetics/k600_mtv_l2_cva.py, kinetics/k700_mtv_l2_cva.py,
               mit/mit_mtv_l2_cva.py, ssv2/ssv2_mtv_b2_cva.py
    PolyViT    google-research/scenic, projects/polyvit/configs/polyvit_all.py
    TimeSformer-HR  facebookresearch/TimeSformer, configs/Kinetics/TimeSformer_divST_16x16_448.yaml
    CoCa       arXiv 2205.01917, table 9, video
"""

import ml_collections
from ml_collections import config_dict

from configs import common, datasets

# ImageNet-21K weights of "How to train your ViT?" (arXiv 2106.10270). For each size they are the best by pre-training
# metrics, in the table in README.md of google-research/vision_transformer. For a copy on disk use
# --config.model.init_from=FILE.
AUGREG = "gs://vit_models/augreg/"

KINETICS = {"k400": 400, "k600": 600, "k700": 700}
IMAGES = {"imagenet": datasets.imagenet, "imagenet21k": datasets.imagenet21k}
MOMENTS = {"mit305": 305, "mit339": 339}  # the default: what the publisher gives out now
STAGES = ("stage1", "stage2")


def get_config(argument: str = "", config_file: str = "configs/cover_l.py"):
    """Makes the config.

    Args:
        argument: words, separated by commas; see above.
        config_file: name shown in error messages.
    """
    words = _parse(argument, config_file)
    config = _single_stage(words["kinetics"], words["images"], words["moments"])
    if words["stage"]:
        _make_stage(config, words["kinetics"], words["images"])
    if words["stage"] == "stage2":
        _make_short_stage(config)
    return config


def _parse(argument: str, config_file: str) -> dict[str, str]:
    """The word for each question, or its default."""
    questions = {"stage": STAGES, "kinetics": KINETICS, "images": IMAGES, "moments": MOMENTS}
    found = {name: [word for word in argument.split(",") if word in words] for name, words in questions.items()}
    unknown = set(filter(None, argument.split(","))) - {word for words in questions.values() for word in words}
    if unknown or any(len(words) > 1 for words in found.values()):
        right = "; ".join(" or ".join(words) for words in questions.values())
        raise ValueError(f"{config_file}:{argument}: must be at most one word of each: {right}")
    defaults = {"stage": "", "kinetics": "k400", "images": "imagenet", "moments": "mit305"}
    return {name: words[0] if words else defaults[name] for name, words in found.items()}


def _single_stage(kinetics: str, images: str, moments: str) -> ml_collections.ConfigDict:
    """One short stage at 448 px: 60,000 steps, without the neighbours' regularisation. This project's choice.

    It has as many steps with each Kinetics, so that the three compare at one cost: 25.6, 14.4 and 11.5 epochs. MTV-L's
    30 epochs of K600 and K700 would take 125,000 and 157,000 steps of 448 px, three times the operations of `stage1`,
    which has them at 224 px.
    """
    config = common.get_config()
    config.steps = 60_000
    config.eval_every_steps = 10_000

    video = {"batch_size": 256, "eval_crops": 3}
    config.datasets[kinetics] = datasets.kinetics(KINETICS[kinetics], weight=0.4, **video)
    config.datasets.ssv2 = datasets.something_something_v2(weight=0.25, **video)
    config.datasets.mit = datasets.moments_in_time(MOMENTS[moments], weight=0.2, **video)
    config.datasets[images] = IMAGES[images](weight=0.15, batch_size=1024, eval_batch_size=256)

    config.model.variant = "L/16"
    config.model.size_px = 448
    config.model.num_frames = 16
    config.model.drop_path = 0.1  # MTV-L; TimeSformer's ViT has it too (timesformer/models/vit.py)
    config.model.init_from = AUGREG + "L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0.npz"
    config.model.temporal_init = "zeros"
    config.model.remat = "attention"  # four clips per chip fit in 16 GiB: cover_jax/plan/README.md

    config.optimizer.name = "sgd"  # ViViT-L, MTV, PolyViT, TimeSformer-HR
    config.optimizer.learning_rate = 0.1  # ViViT-L and MTV-L on Kinetics
    config.optimizer.warmup_steps = 2_500
    config.optimizer.momentum = 0.9
    config.optimizer.clip_norm = 1.0  # ViViT-L, MTV, PolyViT

    config.mesh.fsdp = 8  # parameters and optimizer state over 8 chips, the batch over all of them
    return config


def _make_stage(config: ml_collections.ConfigDict, kinetics: str, images: str) -> None:
    """The first of two stages: 224 px, long, each dataset regularised and scaled as its neighbours do."""
    config.model.size_px = 224

    # The weight is the number of steps. At these batches: 30 epochs of Kinetics (MTV-L on K600 and K700, ViViT-L and
    # PolyViT on K400), 60 of SSv2 (MTV-B), 8 of ImageNet (PolyViT: 20,000 steps of 512). Moments has 37.5 % of the
    # draws, this project's choice: 15 to 24 epochs (PolyViT 10, MTV-L 20). `k400` is 124,480 steps, `k600` 159,520.
    weights = {"k400": 28_200, "k600": 50_100, "k700": 62_600, "ssv2": 39_600, images: 10_000}
    for name in (kinetics, "ssv2", images):
        config.datasets[name].weight = float(weights[name])
    config.datasets.mit.weight = round(0.6 * sum(weights[name] for name in (kinetics, "ssv2", images)), 1)
    config.steps = round(sum(dataset.weight for dataset in config.datasets.values()))
    config.optimizer.warmup_steps = config.steps // 12  # 2.5 of 30 epochs: ViViT-L, MTV, PolyViT

    # Times optimizer.learning_rate, after clipping, as in PolyViT: with a clipped gradient, loss_weight does nothing.
    config.optimizer.learning_rate = 1.0  # PolyViT
    config.datasets[kinetics].learning_rate_scale = 0.1  # PolyViT; the rate of ViViT-L and MTV-L
    config.datasets.ssv2.learning_rate_scale = 0.2  # MTV-B, with the same batch of 256; ViViT-L 0.4 with 64
    config.datasets.mit.learning_rate_scale = 0.25  # PolyViT; MTV-L 0.2
    config.datasets[images].learning_rate_scale = 0.03  # PolyViT

    config.optimizer.ema_decay = 0.9999  # CoCa, 120,000 steps

    for name in (kinetics, "ssv2", "mit"):
        augment = config.datasets[name].augment
        augment.crop = "scale"  # ViViT-L, MTV, PolyViT: shorter side 256 times 0.9 to 1.33, then 224
        augment.crop_range = (1.03, 1.52)
    for name in (kinetics, "mit"):
        config.datasets[name].augment.color_prob = 0.8  # ViViT-L, MTV, PolyViT; its strength is this project's choice
    config.datasets.mit.augment.mixup_alpha = 0.2  # MTV-L
    ssv2 = config.datasets.ssv2
    ssv2.label_smoothing = 0.3  # ViViT-L; MTV-B 0.2
    ssv2.augment.mixup_alpha = 0.3  # ViViT-L and MTV-B
    ssv2.augment.randaugment_layers = 2  # ViViT-L; MTV-B 1
    ssv2.augment.randaugment_magnitude = 20  # ViViT-L; MTV-B 15
    ssv2.drop_path = 0.3  # ViViT-L, of this dataset alone; the others have MTV-L's 0.1


def _make_short_stage(config: ml_collections.ConfigDict) -> None:
    """The second of two stages: 448 px, from the first one's best checkpoint. Its length and rate are this project's.

    TimeSformer-HR trains at 448 px from an image model, for 15 epochs; here the clips have been learnt before.
    """
    config.model.size_px = 448
    config.model.init_from = config_dict.placeholder(str)  # must be given: gs://BUCKET/stage1@best
    config.steps //= 10
    config.eval_every_steps = 2_000
    config.optimizer.warmup_steps //= 10
    config.optimizer.learning_rate = 0.1  # a tenth of stage 1; Kinetics then has 0.01, and TimeSformer-HR 0.005
    config.optimizer.ema_decay = 0.999  # the same share of the run as in stage 1
    for dataset in config.datasets.values():
        if dataset.num_frames > 1:
            dataset.augment.crop_range = (1.0, 512 / 448)  # TimeSformer-HR: shorter side 448 to 512, then 448


def start_from(config: ml_collections.ConfigDict, weights: str) -> None:
    """Sets the image weights of another size of model. A second stage has none: it starts from the first."""
    if config.model.init_from:
        config.model.init_from = weights

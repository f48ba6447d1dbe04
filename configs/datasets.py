"""One function per dataset: its location, its content and how its clips are sampled. Class counts cite their source.

Weights, rates and augmentation are this project's choice, because the paper does not state them.
"""

import ml_collections

from configs import common

# Training examples, by builder: the table in data_pipelines/prepare/README.md has the source of each. Copies differ,
# because clips disappear; a run prints its own numbers of examples and epochs.
TRAIN_EXAMPLES = {
    "kinetics/400": 240_436,
    "kinetics/600": 427_549,
    "kinetics/700": 534_073,
    "something_something/v2": 168_913,
    "moments_in_time/339": 802_264,
    "moments_in_time/305": 727_305,
    "imagenet2012": 1_281_167,
    "imagenet21k": 13_021_965,  # all but one in a hundred
}

# Forms of data of one's own, each with a builder in data_pipelines/builders/formats.
FORMS = ("video_folder", "image_folder", "webdataset", "hugging_face", "list_of_files")


def epochs(config: ml_collections.ConfigDict) -> dict[str, float]:
    """Dataset name -> how often a run of a config sees each of its training examples, by TRAIN_EXAMPLES."""
    total = sum(dataset.weight for dataset in config.datasets.values())
    share = {name: dataset.weight / total for name, dataset in config.datasets.items()}
    return {
        name: config.steps * share[name] * dataset.batch_size / TRAIN_EXAMPLES[dataset.builder]
        for name, dataset in config.datasets.items()
    }


def kinetics(num_classes: int, **changes) -> ml_collections.ConfigDict:
    """Kinetics-400/600/700 (arXiv 1705.06950, 1808.01340, 1907.06987): actions, many recognisable from one frame."""
    config = common.dataset()
    config.builder = f"kinetics/{num_classes}"
    config.num_classes = num_classes
    # TimeSformer-HR's official config takes 16 frames that are 16 frames apart at 30 fps; here in frames per second.
    config.sample_fps = 1.875
    return _with(config, changes)


def something_something_v2(**changes) -> ml_collections.ConfigDict:
    """Something-Something v2 (arXiv 1706.04261; 174 classes): motion; some class names contain left and right."""
    config = common.dataset()
    config.builder = "something_something/v2"
    config.num_classes = 174
    config.sample_fps = 0.0  # segments of the whole clip, because the class depends on how the action ends
    config.augment.flip = "never"
    return _with(config, changes)


def charades(**changes) -> ml_collections.ConfigDict:
    """Charades (arXiv 1604.01753; 157 classes): half a minute of acted scripts at home, several actions per video."""
    config = common.dataset()
    config.builder = "charades"
    config.task = "multilabel"
    config.num_classes = 157
    # Segments of the whole video: its labels hold for some part of it.
    config.sample_fps = 0.0
    config.eval_clips = 10  # facebookresearch/SlowFast, configs/Charades/SLOWFAST_16x8_R50.yaml: 10 views of 3 crops
    config.eval_crops = 3
    return _with(config, changes)


def epic_kitchens(**changes) -> ml_collections.ConfigDict:
    """EPIC-KITCHENS-100 (arXiv 2006.13256): seconds cut from first-person videos; 97 verbs and 300 nouns."""
    config = common.dataset()
    config.builder = "epic_kitchens"
    config.task = "multihead"
    config.heads = "verb:97, noun:300"
    config.sample_fps = 0.0  # segments of the whole clip: its length is that of the action
    return _with(config, changes)


def moments_in_time(num_classes: int, **changes) -> ml_collections.ConfigDict:
    """Moments in Time: three-second clips. 339 classes (arXiv 1801.03150), or 305 in the second release.

    The publisher calls the second one V2 (zhoubolei/moments_models, README.md). Most papers report on the first:
    PolyViT and MTV have 339 classes (google-research/scenic, projects/polyvit/configs/polyvit_all.py).
    """
    config = common.dataset()
    config.builder = f"moments_in_time/{num_classes}"
    config.num_classes = num_classes
    return _with(config, changes)


def imagenet(**changes) -> ml_collections.ConfigDict:
    """ImageNet-1k (ILSVRC 2012; 1,000 classes): every image is a video of one frame."""
    config = common.dataset()
    config.builder = "imagenet2012"
    config.frames_feature = "image"
    config.num_classes = 1000
    config.num_frames = 1
    config.augment.crop_range = (0.08, 1.0)
    return _with(config, changes)


def imagenet21k(**changes) -> ml_collections.ConfigDict:
    """ImageNet-21k (image-net.org, winter 2021: 19,167 synsets): every image is a video of one frame."""
    config = imagenet()
    config.builder = "imagenet21k"
    config.frames_feature = "frames"
    config.num_classes = 19_167
    return _with(config, changes)


def digits(part: str, **changes) -> ml_collections.ConfigDict:
    """The embedded dataset: scikit-learn's handwritten digits, moving ("appearance", "motion") or still ("images")."""
    config = common.dataset()
    config.builder = f"digits/{part}"
    config.num_frames = 1 if part == "images" else 4
    config.canvas_px = (16, 16)
    config.augment.flip = "never"  # a mirrored 2 is not a 2, and a motion to the left is not one to the right
    config.augment.crop = "none"
    return _with(config, changes)


def folder(builder: str, **changes) -> ml_collections.ConfigDict:
    """Data prepared as FORM/NAME, FORM one of FORMS. Images other than those of image_folder need num_frames=1."""
    config = common.dataset()
    config.builder = builder
    config.num_frames = 1 if builder.startswith("image_folder/") else 8
    return _with(config, changes)


def _with(config: ml_collections.ConfigDict, changes: dict) -> ml_collections.ConfigDict:
    config.update(changes)  # an unknown key fails at start-up, against the schema
    return config

"""Where does co-training help? digits.py with one change at a time, on the draw with which its settings were chosen.

    python -m cover_jax.study --config=configs/studies/regime.py --workdir=/tmp/regime

cover_jax/study/RESULTS.md has the results.
"""

import dataclasses

from configs.studies import common, digits
from configs.studies.digits import APPEARANCE, IMAGES, MOTION, STEPS

# Setting -> its label, its datasets, and the setting that it is compared with.
SETTINGS = {
    APPEARANCE: ("alone", (APPEARANCE,), ()),
    MOTION: ("alone", (MOTION,), ()),
    "joint": ("joint", (APPEARANCE, MOTION), (APPEARANCE, MOTION)),
    "appearance_images": ("appearance + images", (APPEARANCE, IMAGES), (APPEARANCE,)),
    "joint_images": (
        "joint + images", (APPEARANCE, MOTION, IMAGES), (APPEARANCE, "appearance_images", MOTION, "joint"),
    ),
}  # fmt: skip
TOGETHER = ("joint", "appearance_images", "joint_images")
WITH_MOTION, WITH_IMAGES = ("joint", "joint_images"), ("appearance_images", "joint_images")


@dataclasses.dataclass(frozen=True)
class Change:
    """A change to digits.py.

    Attributes:
        label: label of the change in the table.
        model: changed keys of the model. A changed model starts from an image model of its own.
        datasets: dataset -> its changed keys.
        steps: number of steps; with the plan "interleave" per dataset, else steps on all datasets together.
        plan: how the datasets share the steps.
        concerns: the settings that are trained again with the change. The others are taken from the unchanged study.
    """

    label: str
    model: dict = dataclasses.field(default_factory=dict)
    datasets: dict = dataclasses.field(default_factory=dict)
    steps: int = STEPS
    plan: str = "joint"
    concerns: tuple[str, ...] = tuple(SETTINGS)


def clips(appearance: int, motion: int) -> dict:
    """Changes the numbers of clips of both kinds. Clips beyond draw 0 (60 and 300 clips) are those of draw 1."""
    sizes = {APPEARANCE: appearance, MOTION: motion}
    return {name: {"train_split": f"train[0:{size}]"} for name, size in sizes.items()}


CHANGES = {
    "": Change("as digits.py"),
    "time_embed": Change("time embedding of std 0.5", {"time_embed_std": 0.5}),
    "temporal": Change("temporal_fc random", {"temporal_init": "xavier"}),
    "temporal_time_embed": Change("both random", {"temporal_init": "xavier", "time_embed_std": 0.5}),
    "width": Change("twice the width", {"variant": "nu/4"}),
    "frames": Change("8 frames", {"num_frames": 8}, {name: {"num_frames": 8} for name in (APPEARANCE, MOTION)}),
    "clips_half": Change("half the clips", datasets=clips(30, 150)),
    "clips_twice": Change("twice the clips", datasets=clips(120, 600)),
    "steps_half": Change("half the steps, same warm-up", steps=STEPS // 2),
    "steps_twice": Change("twice the steps, same warm-up", steps=2 * STEPS),
    "batch_half": Change("16 images a step", datasets={IMAGES: {"batch_size": 16}}, concerns=WITH_IMAGES),
    "batch_twice": Change("64 images a step", datasets={IMAGES: {"batch_size": 64}}, concerns=WITH_IMAGES),
    "motion_weight": Change("motion weighs 0.3", datasets={MOTION: {"loss_weight": 0.3}}, concerns=WITH_MOTION),
    "images_weight": Change("images weigh 0.3", datasets={IMAGES: {"loss_weight": 0.3}}, concerns=WITH_IMAGES),
    "interleave": Change("one dataset a step", plan="interleave", concerns=TOGETHER),
}


def get_config():
    study = common.get_config()
    study.seeds, study.draws = (1, 2, 3), (0, 0, 0)
    study.run = digits.run()
    del study.run.datasets[digits.RELATED]
    study.examples_per_draw = {APPEARANCE: 60, MOTION: 300, IMAGES: 0}
    for name, change in CHANGES.items():
        if change.model or not name:
            study.settings[key("start", name)] = start(change)
        for setting in change.concerns:
            study.settings[key(setting, name)] = changed(setting, name, change)
            others = [key(other, name if other in change.concerns else "") for other in SETTINGS[setting][2]]
            study.differences[key(setting, name)] = tuple(others)
    study.quick_settings = (APPEARANCE, "appearance_images")
    return study


def key(setting: str, change: str) -> str:
    """The key of a setting with a change."""
    return f"{setting}_{change}" if change else setting


def start(change: Change):
    """The image model from which all settings with a change start."""
    label = f"images: the start, {change.label}"
    return common.setting(label, (IMAGES,), digits.START_STEPS, changes={"model": change.model | {"head": "mlp"}})


def changed(setting: str, name: str, change: Change):
    """A setting with a change."""
    label, datasets, _ = SETTINGS[setting]
    changes = {
        "model": change.model,
        "plan": change.plan,
        "datasets": {dataset: keys for dataset, keys in change.datasets.items() if dataset in datasets},
    }
    steps = change.steps * (len(datasets) if change.plan == "interleave" else 1)
    options = {"start": key("start", name if change.model else ""), "changes": changes}
    return common.setting(f"{label}, {change.label}", datasets, steps, **options)

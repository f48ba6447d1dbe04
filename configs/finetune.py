"""Fine-tunes an existing model on folders of your own clips and images. Each folder is prepared first.

    python -m data_pipelines.prepare video_folder --name=mine --source=/data/mine --validation_pattern='_v[0-9]+'
    python -m cover_jax.main --config=configs/finetune.py:video_folder/mine --workdir=/tmp/mine \\
        --config.model.init_from=gs://vit_models/augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0.npz

`init_from` is required. It is a file of published weights, or the --workdir of a run of this project. A head of that
run is taken over if a new head has the same classes. Set `model.variant` to the size of the model; `size_px` and
`num_frames` may differ.

Each folder gets one head. To add a new head to the heads of such a run, name their folders too: then all are trained
together. Otherwise the model has only the new head. To train only heads, use configs/finetune_head.py. With few clips,
do that first and start this config from its workdir: an untrained head distorts the layers below it (arXiv 2202.10054).

The run ends early if three evaluations in a row bring no new best. The best checkpoint is kept in addition to the
newest; prediction and export use it with --step=best. It is chosen by its accuracy on the validation clips, so this
accuracy is slightly optimistic.

The sizes are for few clips and one accelerator. AdamW with a layer decay of 0.75, label smoothing of 0.1 and a weight
decay of 0.05 follows the fine-tuning of VideoMAEv2 (arXiv 2303.16727). The rest is this project's choice and has no
result so far: no mixup and no erasing, because they need more epochs than are useful with few clips; drop-path is half
of VideoMAEv2's.
"""

from ml_collections import config_dict

from configs import common, folders


def get_config(named: str = "", config_file: str = "configs/finetune.py"):
    """Makes the config.

    Args:
        named: BUILDER/NAME, ..., where BUILDER is one of datasets.FORMS.
        config_file: name shown in error messages.
    """
    config = common.get_config()
    config.steps = 1000
    config.eval_every_steps = 100
    config.checkpoint_every_steps = 100
    config.early_stop_evals = 3
    config.log_every_steps = 20

    config.datasets = folders.named_datasets(named, config_file)
    for dataset in config.datasets.values():
        dataset.label_smoothing = 0.1
        dataset.augment.crop_range = (0.5, 1.0)  # milder than from scratch: less of the few clips is cropped away
        dataset.augment.color_prob = 0.5

    config.model.variant = "B/16"
    config.model.init_from = config_dict.placeholder(str)  # must be given
    config.model.size_px = 224
    config.model.num_frames = 8
    config.model.drop_path = 0.1
    config.model.dtype = "auto"  # bfloat16 where the device is fast in it
    config.model.temporal_init = "zeros"  # for an image model; a video model has trained temporal attention

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 0.05
    config.optimizer.layer_decay = 0.75
    return config

"""Fine-tuning on folders of your own clips and images, each prepared first, from a model that is there already.

    python -m data_pipelines.prepare video_folder --name=mine --source=/data/mine --validation_pattern='_v[0-9]+'
    python -m cover_jax.main --config=configs/finetune.py:video_folder/mine --workdir=/tmp/mine \\
        --config.model.init_from=gs://vit_models/augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0.npz

`init_from` must be given: weights of others, or the --workdir of a run of this project, in which each new head whose
classes one of its heads has is taken over. Set `model.variant` to its size; `size_px` and `num_frames` may differ.

One head for each folder. A new head beside those of such a run: name their folders too, and they are trained on
together. Otherwise the new one is alone. To train heads alone: configs/finetune_head.py. With few clips do that first
and start this from its workdir: a head that knows nothing yet pulls the layers below it astray (arXiv 2202.10054).

The run ends before its last step where three evaluations in a row bring no new best; the best checkpoint is kept beside
the newest, and prediction and export take it with --step=best. Chosen by the accuracy on the validation clips, it looks
a little better on them than it is.

Sized for few clips and one accelerator. AdamW with a layer decay of 0.75, label smoothing of 0.1 and a weight decay of
0.05 is how VideoMAEv2 (arXiv 2303.16727) fine-tunes. The rest is this project's choice, and so far without a result:
neither mixup nor erasing, which need more epochs than few clips are worth; drop-path at half of VideoMAEv2's.
"""

from ml_collections import config_dict

from configs import common, folders


def get_config(named: str = "", config_file: str = "configs/finetune.py"):
    """`named`: BUILDER/NAME, ..., where BUILDER is video_folder or image_folder; an error speaks of `config_file`."""
    config = common.get_config()
    config.steps = 1000
    config.eval_every_steps = 100
    config.checkpoint_every_steps = 100
    config.early_stop_evals = 3
    config.log_every_steps = 20

    config.datasets = folders.named_datasets(named, config_file)
    for dataset in config.datasets.values():
        dataset.label_smoothing = 0.1
        dataset.augment.crop_range = (0.5, 1.0)  # milder than from scratch: what little there is stays in the picture
        dataset.augment.color_prob = 0.5

    config.model.variant = "B/16"
    config.model.init_from = config_dict.placeholder(str)  # must be given
    config.model.size_px = 224
    config.model.num_frames = 8
    config.model.drop_path = 0.1
    config.model.temporal_init = "zeros"  # from an image model; a video model brings its own

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 0.05
    config.optimizer.layer_decay = 0.75
    return config

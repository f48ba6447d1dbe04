"""Every key of a CoVeR run: its default, its unit, what it does. This file is the schema.

All other files in this folder start from `get_config` and change values; a key that is not here does not exist.
Values that the paper (arXiv 2112.07175) does not state are this project's choice, and say so.
"""

import ml_collections
from ml_collections import ConfigDict


def get_config() -> ml_collections.ConfigDict:
    """The schema with its defaults. It names no dataset: every runnable config adds at least one."""
    config = ConfigDict()

    config.seed = 0  # the only source of randomness: initialisation, data order, augmentation, drop-path
    config.data_dir = ""  # where prepared datasets stand, local or gs://; "": TFDS's own default
    config.steps = 1000  # optimizer steps in the whole run
    config.log_every_steps = 100
    config.eval_every_steps = 1000  # and always after the last step
    config.checkpoint_every_steps = 1000  # and at every evaluation and after the last step
    # This many of the latest and, beside them, of the best; 2 or more, so that one stays where the newest is damaged.
    config.keep_checkpoints = 2
    config.best_metric = "mean_top1"  # "mean_top1", or "DATASET/top1" | "DATASET/top5" | "DATASET/mean_class"
    config.compare_with = ""  # workdir of another run, whose accuracies the last table shows beside this one's
    config.early_stop_evals = 0  # end after this many evaluations in a row without a new best of best_metric; 0: off
    config.max_nonfinite_steps = 1  # end the run after this many steps in a row with a NaN or Inf loss or gradient
    # A run also diverges when a loss exceeds this many times the median of its dataset's last loss_window_steps steps;
    # 0: off. Only steps on that dataset count, and until there are that many no loss is too high.
    config.max_loss_ratio = 0.0
    config.loss_window_steps = 100
    # A run that diverges goes back to its last checkpoint and leaves out the batches since, this many times in all;
    # then, or with 0, it ends.
    config.max_rollbacks = 0
    config.compilation_cache = True  # keep programs in WORKDIR/compilation_cache: a restart does not compile again
    config.profile_steps = (0, 0)  # trace from this step to before that one, for TensorBoard's profile page; equal: off
    config.write_compiled = False  # the program and the memory of each kind of step, to WORKDIR/compiled

    # "interleave": one dataset a step, drawn in exact proportion to the datasets' weights (weighted task sampling, as
    # in PolyViT, arXiv 2111.12993). "joint": every dataset in every step. The paper does not say which it used.
    config.plan = "interleave"

    # Go on from a checkpoint whose mix was another: other datasets, weights or plan. Each dataset goes on with its next
    # batch, new ones begin, with new heads, and the heads of those that left are dropped.
    config.allow_changed_mix = False

    config.datasets = ConfigDict()  # name -> dataset(); one classification head each, in the order of their names
    config.model = model()
    config.optimizer = optimizer()
    config.mesh = mesh()
    config.input = input_pipeline()
    config.timeouts = timeouts()
    return config


def dataset() -> ml_collections.ConfigDict:
    """One dataset of the mix and its head. All values here are this project's choice."""
    config = ConfigDict()
    config.builder = ""  # TFDS builder, "name" or "name/config"
    config.train_split = "train"
    config.eval_split = "validation"  # "": this dataset is not evaluated
    config.num_classes = 0  # refused if the prepared data says otherwise; 0: take what the prepared data says
    config.frames_feature = "frames"  # the feature that holds the JPEG bytes: of each frame, or of the one image
    config.num_frames = 16  # frames a clip; 1 for images
    config.sample_fps = 0.0  # frames a second, at a random start; 0: one from each of num_frames equal segments
    # Each clip's frames in an order of its own, in training and evaluation: what is learnt then needs no order.
    config.shuffle_frames = False
    config.canvas_px = (256, 456)  # height, width that frames are padded to on the host; larger ones are shrunk
    # Bring each clip's levels to mean 0 and deviation 1, all its frames and colours together, in place of
    # model.pixel_mean and pixel_std. For clips in the dark beside others by day.
    config.standardize = False

    config.weight = 1.0  # plan "interleave": share of the steps, relative to the other datasets'
    config.loss_weight = 1.0  # factor on this dataset's loss
    config.batch_size = 64  # examples a step, over all devices; a multiple of them, times grad_accum_steps
    config.repeats = 1  # rows that an example gives, read once, each augmented anew (arXiv 1901.09335)
    config.label_smoothing = 0.0

    config.eval_batch_size = 64  # examples, over all devices; each is eval_clips x eval_crops views
    config.eval_clips = 1  # temporal views
    config.eval_crops = 1  # spatial views along the longer side: 1 (centre) or 3
    config.augment = augment()
    return config


def augment() -> ml_collections.ConfigDict:
    """What one training example goes through on the device: one draw a clip, the same for all its frames."""
    config = ConfigDict()
    # Mirror half of the clips. Classes that differ by the words left and right (or clockwise) then swap, and one
    # without its opposite is never mirrored. False where classes mean sides in other words, or a mirrored 2 is no 2.
    config.flip = True
    config.crop = "area"  # "area": random area and aspect; "scale": random zoom, then a square anywhere; "none": whole
    config.crop_range = (0.3, 1.0)  # "area": share of the frame; "scale": shorter side, in units of the model's size_px
    config.crop_aspect = (0.75, 4 / 3)  # "area": width / height
    config.color_prob = 0.0  # share of clips whose colour is jittered
    config.color_strength = 0.4  # largest relative change of brightness, contrast and saturation
    config.randaugment_layers = 0  # operations a clip (RandAugment, arXiv 1909.13719); 0: off
    config.randaugment_magnitude = 10  # of 30
    config.mixup_alpha = 0.0  # Beta(a, a) of mixup (arXiv 1710.09412); 0: off
    config.cutmix_alpha = 0.0  # Beta(a, a) of cutmix (arXiv 1905.04899); 0: off. With both on, half the examples each
    config.erase_prob = 0.0  # share of clips with one rectangle erased (arXiv 1708.04896)
    return config


def model() -> ml_collections.ConfigDict:
    """TimeSformer with divided space-time attention (arXiv 2102.05095), one head a dataset."""
    config = ConfigDict()
    config.variant = "B/16"  # SIZE/PATCH; sizes and their sources: cover_jax/models/variants.py
    config.size_px = 224  # side of the square that the model sees
    config.num_frames = 16  # length of the time embedding; clips of another length have it interpolated
    # First values, where WORKDIR has no checkpoint yet. "": random. Else weights that others trained, their kind told
    # by their tensors' names: a file or folder, local or gs://, or hf://ORG/REPO[@REVISION][/FILE]. Or the workdir of
    # another run: its newest checkpoint.
    config.init_from = ""
    # From another run: keep its heads, with their class names, beside those of the datasets. They are not trained, and
    # not changed as long as the backbone is frozen (optimizer.frozen). The model must be that run's.
    config.keep_heads = False
    config.head = "linear"  # "linear", or "mlp": one hidden tanh layer of the model's width before it
    config.drop_path = 0.0  # rate of the last block, rising linearly from 0 in the first (arXiv 1603.09382)
    config.temporal_init = "zeros"  # of temporal_fc: "zeros" (from an image model), "xavier" (from scratch)
    config.time_embed_std = 0.0  # of the time embedding's initial values; 0 from an image model
    # Both as TimeSformer and timm have them. google-research's ViT was trained with "tanh"; files of Hugging Face's ViT
    # mostly say 1e-12. Where the weights of init_from had others, the run says so: with theirs, it equals their code.
    config.gelu = "exact"  # of the MLPs; "tanh": its approximation
    config.layer_norm_eps = 1e-6  # added to the variance
    config.dtype = "bfloat16"  # of activations and matrix products; parameters are float32
    # Recompute in the backward pass: "full" (every block), "attention" (all but what attention returns: faster, for
    # twice the clip's tokens in memory per block), "none".
    config.remat = "full"
    config.attention = "auto"  # "einsum"; "fused" (a kernel for TPU or GPU); "auto": fused where it is faster
    config.pixel_mean = (0.5, 0.5, 0.5)  # subtracted after scaling to 0..1 (AugReg ViTs use .5/.5, arXiv 2106.10270)
    config.pixel_std = (0.5, 0.5, 0.5)
    return config


def optimizer() -> ml_collections.ConfigDict:
    """optax chain: clip, SGD momentum or AdamW, decay, per-layer rates, cosine. This project's choice (see cover_l)."""
    config = ConfigDict()
    config.name = "sgd"  # "sgd" or "adamw"
    config.learning_rate = 0.1  # at the peak
    config.warmup_steps = 0  # linear, from 0
    config.final_learning_rate = 0.0  # where the cosine ends, at the last step
    config.momentum = 0.9  # sgd
    config.b1 = 0.9  # adamw
    config.b2 = 0.999  # adamw
    config.weight_decay = 0.0  # times the learning rate; decoupled, for both optimizers
    config.no_decay = r".*(bias|scale|cls_token|pos_embed|time_embed)$"  # full match on a parameter's path: no decay
    config.clip_norm = 1.0  # global norm of the gradient; 0: off
    config.layer_decay = 1.0  # rate of each block relative to the next one up; heads and time_embed have 1
    config.frozen = ""  # full match on a parameter's path: never changes
    config.ema_decay = 0.0  # moving average of the parameters, used in evaluation; 0: off
    config.grad_accum_steps = 1  # pieces that a batch is cut into, one after another, to save memory
    return config


def mesh() -> ml_collections.ConfigDict:
    """Devices along each axis; -1 once: all that are left."""
    config = ConfigDict()
    config.data = -1  # copies of the model
    config.fsdp = 1  # shards of parameters and optimizer state; batches are split over data and fsdp
    config.tensor = 1  # shards of heads and MLP
    return config


def input_pipeline() -> ml_collections.ConfigDict:
    """How hard the host works."""
    config = ConfigDict()
    config.threads = 0  # of each dataset's tf.data pool; 0: one a core
    config.prefetch_batches = 2  # ready ahead of the step, for each dataset
    # Training examples that another dataset is validated on: "exclude" them, "report" them, or "ignore": no search.
    config.leaks = "exclude"
    # Share of a dataset's training examples that may be undecodable: they weigh nothing. More of them end the run.
    config.max_bad_share = 0.01
    return config


def timeouts() -> ml_collections.ConfigDict:
    """Seconds after which a host gives up, with the stacks of all its threads and exit code 48. Our choice."""
    config = ConfigDict()
    config.connect_s = 300  # until all hosts have found each other
    config.start_s = 3600  # opening data, restoring or downloading weights: until the first step
    config.compile_s = 3600  # a step on datasets that have not been together in one before
    config.step_s = 600  # any other step, with its input
    config.evaluation_s = 3600  # from one dataset's evaluation to the next one's
    # Waiting for a checkpoint. After a third of it a save whose part one host has not written has failed.
    config.save_s = 900
    config.exit_s = 300  # from the last step to the end of the process
    return config

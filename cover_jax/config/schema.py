"""Every key of a run's config: its default, what it may be, its unit, and what it does.

All files in configs/ start from `get_config` and change values; a key that is not here does not exist. Validation
(`checks`), `python -m cover_jax.config` and the page configs/KEYS.md are made from these classes.

Values that the paper (arXiv 2112.07175) does not state are this project's choice, and say so.
"""

import re

from cover_jax.config.keys import (
    BELOW_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    RANGE,
    REGEX,
    RGB,
    SHARE,
    SWITCH,
    TEXT,
    Changes,
    Each,
    Group,
    Key,
    Rule,
    between,
    described,
    one_of,
)
from cover_jax.models import registry as model_parts
from cover_jax.tasks import registry
from cover_jax.tasks.head_list import HeadList

SHAPE, FUNCTION, ROUNDING = Changes.SHAPE, Changes.FUNCTION, Changes.ROUNDING
TRAINING, INIT, SPEED = Changes.TRAINING, Changes.INIT, Changes.SPEED


def _are_pairs(text: str) -> bool:
    sides = [[side.strip() for side in pair.split("/")] for pair in text.split(",") if pair.strip()]
    return all(len(pair) == 2 and all(pair) and pair[0] != pair[1] for pair in sides)


def _are_heads(text: str) -> bool:
    try:
        HeadList.parse(text)
    except ValueError:
        return False
    return True


_CANVAS = Rule(
    lambda size: len(size) == 2 and (min(size) > 0 or tuple(size) == (0, 0)),
    "height, width, both greater than 0, or (0, 0)",
)


# A key's default and rule stand in one line, its text below.
# fmt: off
class Augment(Group):
    """What a training example goes through on the device: one random draw per clip, the same for all its frames."""

    flip = Key("swap", one_of("swap", "never", "always"), """
        Mirror half of the clips. 'swap': labels follow, a mirrored 'turn left' is trained as 'turn right', under any
        usual wording; a class that names a side and has no opposite is never mirrored. The log says at the start which
        classes are swapped, never mirrored, or unsure. 'always': each class keeps its label. 'never': no clip is
        mirrored; for classes where a mirrored picture is another class, such as a digit. True and False are 'swap' and
        'never'.""", on_off=("swap", "never"))
    opposites = Key("", Rule(_are_pairs, "pairs such as 'port/starboard, bow/stern'"), """
        Further words that mean sides, for flip='swap': such as 'bow/stern, house left/house right'. Known are left and
        right in several languages, clockwise and its opposite in all spellings, L and R, port and starboard,
        arrows.""")
    crop = Key("area", one_of("area", "scale", "none"), """
        'area': a part of random area and aspect ratio. 'scale': a random zoom, then a square at a random place. 'none':
        the whole frame.""")
    crop_range = Key((0.3, 1.0), RANGE, """
        For 'area': the part's share of the frame's area. For 'scale': the frame's shorter side, in units of
        model.size_px.""")
    crop_aspect = Key((0.75, 4 / 3), RANGE, "For 'area': width / height of the part.")
    color_prob = Key(0.0, SHARE, "Share of clips whose colours are changed.")
    color_strength = Key(0.4, SHARE, "Largest relative change of brightness, contrast and saturation.")
    randaugment_layers = Key(0, Rule(lambda n: 0 <= n <= 14, "from 0 to 14: each is compiled"), """
        Operations of RandAugment per clip (arXiv 1909.13719); 0: off.""")
    randaugment_magnitude = Key(10, between(0, 30), "Magnitude of RandAugment's operations, out of 30.")
    mixup_alpha = Key(0.0, NOT_NEGATIVE, "a of mixup's Beta(a, a) (arXiv 1710.09412); 0: off.")
    cutmix_alpha = Key(0.0, NOT_NEGATIVE, """
        a of cutmix's Beta(a, a) (arXiv 1905.04899); 0: off. With mixup and cutmix on, each gets half of the
        examples.""")
    erase_prob = Key(0.0, SHARE, "Share of clips with one rectangle erased (arXiv 1708.04896).")


class Head(Group):
    """The classifier of one dataset: its kind, and how fast it learns."""

    kind = Key("", one_of("", "linear", "mlp", "attentive"), """
        '': what model.head says. 'linear' and 'mlp' as there. 'attentive': V-JEPA 2's probe (arXiv 2506.09985), which
        reads all patch tokens: self-attention blocks, a learnt query that attends to the tokens, an MLP, logits.""")
    depth = Key(4, POSITIVE, """
        For 'attentive': number of blocks, the pooling block included; 1: only that. V-JEPA 2 has 4: num_probe_blocks in
        facebookresearch/vjepa2, configs/eval/vitl/k400.yaml.""")
    num_heads = Key(0, NOT_NEGATIVE, """
        For 'attentive': attention heads, a divisor of the model's width; 0: as many as the backbone has. V-JEPA 2 has
        16.""")
    learning_rate_scale = Key(1.0, POSITIVE, """
        Factor on the update of this head's parameters, after momentum and weight decay: with plan 'joint', too. Heads
        on a frozen backbone with different factors are trained side by side at different learning rates, as if each
        were alone, if gradients are not clipped (optimizer.clip_norm=0).""")


_WEIGHT_SCHEDULE = Rule(
    lambda text: re.fullmatch(r"(\s*\d+\s*:\s*\d+(\.\d*)?\s*(,|$))*", text), "'' or pairs 'STEP:WEIGHT, STEP:WEIGHT'"
)


class Dataset(Group):
    """One dataset of the mix, and its head. All values here are this project's choice."""

    builder = Key("", Rule(lambda text: re.fullmatch(r"[a-z0-9_]+(/[\w.\-]+)?", text), "'name' or 'name/config'"), """
        TFDS builder of the prepared dataset.""")
    list_of_files = Key("", TEXT, """
        A list of media files with their classes, such as a CSV of path and label. Then `builder` is list_of_files/NAME,
        and the first start of a run makes its records in `data_dir`, if they are not there; see
        data_pipelines/prepare/README.md. '': the dataset is prepared by a command.""")
    train_split = Key("train", Rule(bool, "the name of a split"), "Split to train on.")
    eval_split = Key("validation", TEXT, "Split to evaluate on; '': this dataset is not evaluated.")
    num_classes = Key(0, NOT_NEGATIVE, """
        Number of classes. A run is refused if the prepared data has another number; 0: as many as the prepared data
        has.""")
    task = Key(registry.DEFAULT, one_of(*registry.TASKS), """
        What the head learns. 'multiclass': exactly one class per clip; softmax and cross-entropy, measured by top-1.
        'multilabel': any number of classes per clip, as in Charades; sigmoid and binary cross-entropy, summed over the
        classes (loss_weight gives it its share of a joint step), measured by mAP, the mean over classes of their
        average precision. 'multihead': one class of each of several heads, as in EPIC-KITCHENS; see heads.""")
    heads = Key("", Rule(_are_heads, "'' or HEAD:CLASSES[:WEIGHT], ..., such as 'verb:97, noun:300'"), """
        For task='multihead': the heads in the order of their classes, the number of classes of each, and the weight of
        its loss in that of the dataset (1 if it is not given). Each head has a softmax and cross-entropy of its own;
        the main metric is the share of clips of which all heads are right.""")
    frames_feature = Key("frames", Rule(bool, "the name of a feature"), """
        Feature with the JPEG bytes: of each frame, or of the one image.""")
    num_frames = Key(16, POSITIVE, "Frames per clip; 1 for images.")
    sample_fps = Key(0.0, NOT_NEGATIVE, """
        Frames per second, from a random start. 0: the clip is cut into num_frames equal segments, and one frame is
        taken from each.""")
    shuffle_frames = Key(False, SWITCH, """
        Shuffle the frames of each clip, in training and in evaluation: what is learnt then cannot depend on their
        order.""")
    canvas_px = Key((0, 0), _CANVAS, """
        Height, width that frames are padded to on the host; larger frames are shrunk, none is enlarged. (0, 0): as
        large as the stored frames, but no larger than the model needs: shorter side 8/7 of model.size_px (512 px for
        448), or up to the largest zoom of augment.crop='scale'. The run's config.json says what that is.""")
    standardize = Key(False, SWITCH, """
        Bring the levels of each clip, over all its frames and colours, to mean 0 and standard deviation 1, in place of
        model.pixel_mean and model.pixel_std. For dark clips beside bright ones.""")

    weight = Key(1.0, POSITIVE, "Plan 'interleave': share of the steps, relative to the weights of the other datasets.")
    weight_schedule = Key("", _WEIGHT_SCHEDULE, """
        Plan 'interleave': other weights from given steps on, as STEP:WEIGHT. '90000:0.5, 120000:0': weight up to step
        90,000, then 0.5, and from step 120,000 on no steps on this dataset. '0:0, 50000:1': none before step
        50,000.""")
    loss_weight = Key(1.0, POSITIVE, """
        Factor on this dataset's loss. Plan 'joint': its share of each step. Plan 'interleave': no effect on a step
        whose gradient is clipped (optimizer.clip_norm), because the gradient then has the same norm with any factor;
        learning_rate_scale has an effect there.""")
    learning_rate_scale = Key(1.0, POSITIVE, """
        Factor on the update of a step on this dataset, after clipping, momentum and weight decay (as in PolyViT,
        Scenic's projects/polyvit/trainer.py). Plan 'joint' has one update for all datasets, so there the factor must be
        the same for all.""")
    drop_path = Key(-1.0, Rule(lambda rate: rate == -1 or 0 <= rate < 1, "-1, or from 0 to below 1"), """
        Rate of stochastic depth for this dataset's examples, in place of model.drop_path; -1: that one. PolyViT has one
        per dataset, too: stochastic_droplayer_rates in Scenic's projects/polyvit/configs/polyvit_all.py.""")
    batch_size = Key(64, POSITIVE, """
        Examples per step, over all devices. A multiple of the devices that share a batch, times
        optimizer.grad_accum_steps.""")
    same_clips_as = Key("", TEXT, """
        Another dataset of the config: this one uses its clips, frame by frame, and its pass of the backbone, so that
        several heads cost one decoding and one pass (configs/probe.py). Plan 'joint'; all keys but head and loss_weight
        must be equal to those of that dataset. '': clips of its own.""")
    repeats = Key(1, POSITIVE, """
        Repeated augmentation (arXiv 1901.09335): decode an example once, put this many different augmentations of it in
        the batch.""")
    label_smoothing = Key(0.0, BELOW_ONE, """
        Share of the label that is spread over all classes; with task='multilabel', how far the target of each class
        goes from 0 or 1 towards 1/2.""")

    eval_batch_size = Key(64, POSITIVE, """
        Examples per evaluation step, over all devices; each is eval_clips x eval_crops views. Rounded up to a multiple
        of the devices that share a batch.""")
    eval_clips = Key(1, POSITIVE, "Temporal views per example.")
    eval_crops = Key(1, Rule(lambda n: n in (1, 3), "1 or 3"), """
        Spatial views per example, along the longer side: 1 (the centre) or 3.""")
    eval_crop_share = Key(1.0, Rule(lambda share: 0 < share <= 1, "greater than 0, at most 1"), """
        Side of each spatial view, as a share of the frame's shorter side: 0.875 is what others do by resizing the
        shorter side to 256 px and cropping 224 px.""")
    augment = Augment
    head = Head


_PATH = Rule(lambda text: re.fullmatch(r"(?!\w+://).*|gs://.+", text), "'', a path or 'gs://...'")
_WEIGHTS = Rule(
    lambda text: re.fullmatch(r"(?!\w+://).*|gs://.+|hf://[^/]+/.+", text),
    "'', a path, 'gs://...', WORKDIR@best, WORKDIR@STEP or 'hf://ORG/REPO[@REVISION][/FILE]'",
)


class Model(Group):
    """TimeSformer with divided space-time attention (arXiv 2102.05095), with one head per dataset.

    Each key says what another value of it `changes`. What a run may change, what heads and weights need, and what an
    export can hold follows from that.
    """

    variant = Key("B/16", described("SIZE/PATCH"), """
        Size and patch of the model. Sizes and their sources: cover_jax/models/variants.py.""", changes=SHAPE)
    size_px = Key(224, POSITIVE, "Side of the square that the model sees, a multiple of the patch.", changes=SHAPE)
    num_frames = Key(16, POSITIVE, """
        Length of the time embedding. For clips of another length it is interpolated.""", changes=SHAPE)
    init_from = Key("", _WEIGHTS, """
        First values of the parameters, if WORKDIR has no checkpoint yet. '': random. A file or folder with published
        weights, local, gs:// or hf://; the names of its tensors say which kind it is. Or the workdir of another run:
        its newest checkpoint, with @best after it the best by that run's best_metric, with @STEP the one of that
        step.""", changes=INIT)
    keep_heads = Key(False, SWITCH, """
        From another run, keep its heads with their class names, beside the heads of the datasets. They are not trained.
        Their predictions stay identical as long as the backbone is frozen (optimizer.frozen). The model must be that
        run's.""", changes=INIT)
    head = Key("linear", one_of("linear", "mlp", "attentive"), """
        Kind of the heads whose dataset does not name one (datasets.NAME.head.kind): 'linear'; 'mlp': one hidden tanh
        layer of the model's width before it; 'attentive': attention over all patch tokens.""", changes=SHAPE)
    pre_norm = Key(False, SWITCH, """
        A norm before the first block, as in CLIP (arXiv 2103.00020). Weights of such a model need it.""",
        changes=SHAPE)
    registers = Key(0, NOT_NEGATIVE, """
        Number of register tokens (arXiv 2309.16588): 4 in DINOv2 with registers, whose weights need them. They take
        part in spatial attention as CLS does, and no head reads them.""", changes=SHAPE)
    drop_path = Key(0.0, BELOW_ONE, """
        Rate of stochastic depth in the last block; it rises linearly from 0 in the first block (arXiv 1603.09382).""",
        changes=TRAINING)
    temporal_init = Key("zeros", one_of("zeros", "xavier"), """
        First values of temporal_fc: 'zeros' from an image model, 'xavier' from scratch.""", changes=INIT)
    time_embed_std = Key(0.0, NOT_NEGATIVE, """
        Standard deviation of the time embedding's first values; 0 from an image model.""", changes=INIT)
    gelu = Key("exact", one_of("exact", "tanh", "quick"), """
        GELU of the MLPs; 'tanh' and 'quick' are approximations, 'quick' is that of OpenAI's CLIP. Defaults of gelu and
        layer_norm_eps follow TimeSformer and timm.
        google-research's ViT was trained with 'tanh'. If the weights of init_from had other values, the run says so;
        with theirs, its outputs equal their code's.""", changes=FUNCTION)
    layer_norm_eps = Key(1e-6, POSITIVE, """
        Added to the variance. Files of Hugging Face's ViT mostly have 1e-12, of CLIP 1e-5.""", changes=FUNCTION)
    dtype = Key("bfloat16", one_of("auto", "bfloat16", "float32"), """
        Type of activations and matrix products; parameters are float32. 'auto': bfloat16 on a TPU and on GPUs from
        Ampere on, float32 on a CPU and on older GPUs; the run says which, and its config.json has it.""",
        changes=ROUNDING)
    remat = Key("full", one_of("full", "attention", "none"), """
        What the backward pass recomputes: 'full', every block; 'attention', all but the output of attention (faster,
        for twice the clip's tokens in memory per block); 'none'.""", changes=SPEED)
    attention = Key("auto", one_of("auto", "einsum", "fused", *model_parts.ATTENTION), """
        'einsum'; 'fused', a kernel for TPU or GPU; 'auto', 'fused' where it is faster. All three compute the same.
        cover_jax/EXTENDING.md shows how to add a form that computes something else.""",
        changes=FUNCTION, alike=("auto", "einsum", "fused"))
    pixel_mean = Key((0.5, 0.5, 0.5), RGB, """
        Subtracted after scaling to 0..1, for red, green and blue. AugReg ViTs use 0.5 (arXiv 2106.10270).""",
        changes=FUNCTION)
    pixel_std = Key((0.5, 0.5, 0.5),
        Rule(lambda rgb: len(rgb) == 3 and min(rgb) > 0, "three numbers greater than 0"), """
        Divisor after pixel_mean, for red, green and blue.""", changes=FUNCTION)


class Optimizer(Group):
    """optax chain: clip, SGD momentum or AdamW, decay, rates per layer, cosine. This project's choice (see cover_l)."""

    name = Key("sgd", one_of("sgd", "adamw"), "Which optimizer.")
    learning_rate = Key(0.1, POSITIVE, "Learning rate at its peak, after the warm-up.")
    warmup_steps = Key(0, NOT_NEGATIVE, """
        Steps in which the learning rate rises linearly from 0. In a run of no more steps than that, all steps but the
        last.""")
    final_learning_rate = Key(0.0, NOT_NEGATIVE, "Learning rate at the last step, where the cosine ends.")
    momentum = Key(0.9, BELOW_ONE, "For 'sgd'.")
    b1 = Key(0.9, BELOW_ONE, "For 'adamw'.")
    b2 = Key(0.999, BELOW_ONE, "For 'adamw'.")
    weight_decay = Key(0.0, NOT_NEGATIVE, "Times the learning rate; decoupled, for both optimizers.")
    no_decay = Key(r".*(bias|scale|cls_token|pos_embed|time_embed)$", REGEX, """
        Parameters whose whole path it matches have no weight decay.""")
    clip_norm = Key(1.0, NOT_NEGATIVE, "Largest global norm of the gradient; 0: off.")
    layer_decay = Key(1.0, Rule(lambda rate: 0 < rate <= 1, "greater than 0, at most 1"), """
        Learning rate of each block relative to the block above it; heads and time_embed have the full rate.""")
    frozen = Key("", REGEX, "Parameters whose whole path it matches never change.")
    ema_decay = Key(0.0, BELOW_ONE, """
        Decay of the parameters' moving average, which is evaluated in their place; 0: off.""")
    grad_accum_steps = Key(1, POSITIVE, "Pieces that a batch is cut into, computed one after another, to save memory.")


_AXIS = Rule(lambda size: size == -1 or size > 0, "-1 or greater than 0")


class Mesh(Group):
    """Number of devices along each axis. One axis may be -1: all devices that are left."""

    data = Key(-1, _AXIS, "Copies of the model. Batches are split over data and fsdp.")
    fsdp = Key(1, _AXIS, "Shards of the parameters and of the optimizer's state.")
    tensor = Key(1, _AXIS, "Shards of attention heads and MLPs. It must divide the number of heads.")


class InputPipeline(Group):
    """Input pipeline settings (host CPU)."""

    threads = Key(0, NOT_NEGATIVE, "Threads of each dataset's tf.data pool; 0: one per core.")
    prefetch_batches = Key(2, POSITIVE, "Batches of each dataset that are ready ahead of the step.")
    leaks = Key("exclude", one_of("exclude", "report", "ignore"), """
        Training examples that a dataset of the run is validated on: 'exclude' them, 'report' them, or 'ignore': do not
        search.""")
    max_bad_share = Key(0.01, SHARE, """
        Largest share of a dataset's training examples that may be undecodable; their weight is 0. A larger share ends
        the run.""")


class Timeouts(Group):
    """Seconds after which a host gives up, with the stacks of all threads and exit code 48. This project's choice."""

    connect_s = Key(300, POSITIVE, "Until all hosts have found each other.")
    start_s = Key(3600, POSITIVE, "Until the first step: opening data, restoring or downloading weights.")
    compile_s = Key(3600, POSITIVE, """
        Until the next of the programs that are compiled side by side before the first step is done, one per set of
        datasets that steps are on; also the first step on each set.""")
    step_s = Key(600, POSITIVE, "Any other step, with its input.")
    evaluation_s = Key(3600, POSITIVE, """
        The evaluation of one dataset; with the evaluator 'knn', also the features of its training split.""")
    save_s = Key(900, POSITIVE, """
        Waiting for a checkpoint. After a third of it, a save has failed if one host has not written its part.""")
    exit_s = Key(300, POSITIVE, "From the last step to the end of the process.")


class Knn(Group):
    """The evaluator 'knn': a vote of the nearest training examples, by their features. Values of DINO's eval_knn.py."""

    neighbours = Key(20, POSITIVE, "How many of the nearest training examples vote.")
    temperature = Key(0.07, POSITIVE, "A vote is exp(cosine similarity / temperature).")


class Run(Group):
    """One run: how long, how often, and what happens if something goes wrong."""

    seed = Key(0, Rule(lambda seed: 0 <= seed < 2**32, "from 0 to 2**32 - 1"), """
        The only source of randomness: initialisation, data order, augmentation, stochastic depth.""")
    data_dir = Key("", _PATH, "Folder of the prepared datasets, local or gs://; '': TFDS's own default.")
    steps = Key(1000, POSITIVE, "Optimizer steps of the whole run.")
    log_every_steps = Key(100, POSITIVE, "Steps from one line of the log to the next.")
    eval_every_steps = Key(1000, POSITIVE, """
        Steps from one evaluation to the next. There is always one after the last step.""")
    checkpoint_every_steps = Key(1000, POSITIVE, """
        Steps from one checkpoint to the next. There is also one at every evaluation and after the last step.""")
    keep_checkpoints = Key(2, Rule(lambda n: n >= 2, "2 or greater: one to go back to where the newest is damaged"), """
        How many checkpoints to keep: the N newest and, in addition, the N best. At least 2.""")
    best_metric = Key("mean_top1", described("'mean_top1', 'DATASET/top1', 'DATASET/top5' or 'DATASET/mean_class'"), """
        The best checkpoint is the one with the highest value of this metric. A dataset has a top5 if it has more than
        five classes. 'best_top1': of the best head, where all learn from the same clips (same_clips_as).""")
    evaluators = Key(("accuracy",), described("a tuple of names of EVALUATORS in cover_jax/config/plugins.py"), """
        What is measured at each evaluation, each name once: 'accuracy', of the heads, first; 'knn', of the backbone's
        features, which reads the training split as well.""")
    loggers = Key(("tensorboard",), described("a tuple of names of LOGGERS in cover_jax/config/plugins.py"), """
        Where curves and pictures go, each name once: 'tensorboard', to WORKDIR/tensorboard; 'wandb', to Weights &
        Biases, through its own package.""")
    compare_with = Key("", _PATH, "Workdir of another run; the last table shows its accuracies beside this run's.")
    early_stop_evals = Key(0, NOT_NEGATIVE, """
        End after this many evaluations in a row without a new best value of best_metric; 0: off.""")
    max_nonfinite_steps = Key(1, POSITIVE, """
        End the run after this many steps in a row with a NaN or Inf loss or gradient.""")
    max_loss_ratio = Key(0.0, Rule(lambda ratio: ratio == 0 or ratio > 1, "0 or greater than 1"), """
        A run also diverges when a loss is more than this many times the median of the last loss_window_steps losses of
        its dataset; 0: off. The check starts after loss_window_steps steps on that dataset.""")
    loss_window_steps = Key(100, POSITIVE, "Steps on a dataset whose losses max_loss_ratio looks at.")
    max_rollbacks = Key(0, NOT_NEGATIVE, """
        How often, in all, a run that diverges goes back to its last checkpoint and leaves out the batches since. After
        that, or with 0, it ends.""")
    compilation_cache = Key(True, SWITCH, """
        Keep compiled programs in WORKDIR/compilation_cache, so that a restart does not compile again.""")
    profile_steps = Key((0, 0),
        Rule(lambda steps: len(steps) == 2 and 0 <= steps[0] <= steps[1], "two steps, 0 <= first <= second"), """
        Trace from the first step to before the second, for TensorBoard's profile page; equal: off.""")
    write_compiled = Key(False, SWITCH, "Write the program and the memory of each kind of step to WORKDIR/compiled.")
    plan = Key("interleave", one_of("interleave", "joint"), """
        'interleave': one dataset per step, drawn in exact proportion to the weights of the datasets (weighted task
        sampling, as in PolyViT, arXiv 2111.12993). 'joint': all datasets in every step. The paper does not say which it
        used.""")
    allow_changed_mix = Key(False, SWITCH, """
        Continue from a checkpoint of another mix: other datasets, weights or plan. Each dataset continues with its next
        batch; new datasets begin, with new heads; the heads of datasets that left are dropped.""")
    datasets = Each(Dataset, "The datasets by name, each with one classification head, in the order of their names.")
    model = Model
    optimizer = Optimizer
    mesh = Mesh
    input = InputPipeline
    knn = Knn
    timeouts = Timeouts


# fmt: on
# What configs call: new defaults each time, as an ml_collections.ConfigDict. The first one names no dataset: every
# config that can be run adds at least one.
get_config = Run.config
dataset, augment = Dataset.config, Augment.config
model, optimizer, mesh = Model.config, Optimizer.config, Mesh.config
input_pipeline, knn, timeouts = InputPipeline.config, Knn.config, Timeouts.config

"""What TensorBoard shows of a run, as charts."""

from etils import epath
from markupsafe import Markup
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.util import tensor_util

from cover_jax.report import chart
from cover_jax.tasks.task import Task

Scalars = dict[str, chart.Points]  # tag -> its points
OF_RUN = {  # tag -> title, and whether it is a share
    "train/learning_rate": ("Learning rate", False),
    "train/grad_norm": ("Gradient norm", False),
    "train/clips_per_s": ("Clips a second", False),
    "train/model_tflops": ("TFLOP a second", False),
    "train/mfu": ("MFU", True),
    "train/goodput": ("Goodput", True),
    "train/input_wait_share": ("Share of the time that steps wait for input", True),
}


def read(folder: epath.Path) -> Scalars:
    """All scalars in a folder of TensorBoard's event files; {} if it is not there.

    Of a step that was done again after a restart, the last value counts.
    """
    if not folder.exists():
        return {}
    # All scalars (0), and of anything else as little as there may be.
    events = plugin_event_accumulator.EventAccumulator(
        str(folder), {plugin_event_accumulator.TENSORS: 1}, {"scalars": 0}
    ).Reload()
    if "scalars" not in events.ActivePlugins():
        return {}
    return {tag: _points(events.Tensors(tag)) for tag in sorted(events.PluginTagToContent("scalars"))}


def _points(events) -> chart.Points:
    newest = {event.step: event for event in sorted(events, key=lambda event: event.wall_time)}
    return [(step, float(tensor_util.make_ndarray(newest[step].tensor_proto))) for step in sorted(newest)]


def render_dataset(scalars: Scalars, name: str, task: Task) -> Markup:
    """Loss and metrics of one dataset."""
    loss = {
        "training": scalars.get(f"train/{name}/loss", []),
        "validation": scalars.get(f"validation/{name}/loss", []),
    }
    trained = task.train_metric
    accuracy = {f"training {task.titles[trained]}": scalars.get(f"train/{name}/{trained}", [])}
    accuracy |= {
        f"validation {task.titles[kind]}": scalars.get(f"validation/{name}/{kind}", []) for kind in task.curves
    }
    return _grid([chart.draw("Loss", loss), chart.draw("Accuracy", accuracy, percent=True)])


def render_run(scalars: Scalars) -> Markup:
    """What concerns all datasets: rates, norms, speed."""
    return _grid([
        chart.draw(title, {title: scalars.get(tag, [])}, percent) for tag, (title, percent) in OF_RUN.items()
    ])  # fmt: skip


def _grid(charts: list[Markup]) -> Markup:
    drawn = "".join(charts)
    return Markup(f'<div class="charts">{drawn}</div>' if drawn else "<p>There are no curves: no event files.</p>")

"""All commands alike: the form of --help, its examples, errors of one line with exit code 43, a quiet end in a pipe."""

import gc
import importlib
import json
import pathlib
import subprocess
import sys

import pytest

from configs import demo
from cover_jax import errors
from cover_jax.config import flags as config_flags
from data_pipelines import command_line
from data_pipelines.command_line import UsageError
from tests.docs import pages

ROOT = pathlib.Path(__file__).parent.parent
COMMANDS = command_line.list_commands(ROOT / "cover_jax") | command_line.list_commands(ROOT / "data_pipelines")
# Command -> arguments that are right but for what they name.
NOTHING_THERE = {
    "cover_jax.main": ["--config=nothing.py", "--workdir=TMP"],
    "cover_jax.checkpoint": ["verify", "--workdir=TMP"],
    "cover_jax.config": ["nothing"],
    "cover_jax.export": ["--workdir=TMP", "--head=motion", "--format=jax", "--out=TMP/out"],
    "cover_jax.features": ["--workdir=TMP", "--out=TMP/features.npz", "clip.mp4"],
    "cover_jax.plan": ["--config=nothing.py", "--topology=v5e:2x2"],
    "cover_jax.predict": ["--workdir=TMP", "clip.mp4"],
    "cover_jax.preview": ["--config=nothing.py", "--out=TMP/page.html"],
    "cover_jax.report": ["--workdir=TMP"],
    "cover_jax.study": ["--config=nothing.py", "--workdir=TMP"],
    "data_pipelines.doctor": ["nothing", "--data_dir=TMP"],
    "data_pipelines.prepare": ["video_folder", "--name=mine", "--source=TMP/nothing", "--data_dir=TMP"],
}
NONE_REQUIRED = {"cover_jax.config", "data_pipelines.doctor", "data_pipelines.prepare"}


def run(name: str, *arguments: str) -> None:
    module = name if name == "cover_jax.main" else f"{name}.__main__"
    importlib.import_module(module).main(list(arguments))


def help_of(name: str, capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        run(name, *arguments, "--help")
    assert ended.value.code == 0
    return capsys.readouterr().out


def refusal(capsys, name: str, *arguments: str) -> str:
    """The one line that a command ends with, with exit code 43."""
    with pytest.raises(SystemExit) as ended:
        run(name, *arguments)
    printed = capsys.readouterr()
    assert ended.value.code == errors.CONFIG
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert "<class" not in printed.err and "Traceback" not in printed.err
    return printed.err.removeprefix("error: ").rstrip()


@pytest.mark.parametrize("name", [*COMMANDS, "cover_jax", "data_pipelines"])
def test_help_has_the_same_parts_everywhere(name, capsys):
    text = help_of(name, capsys)
    usage, summary, *_ = text.split("\n\n")
    assert usage.startswith(f"usage: python -m {name} [-h]")
    assert summary == COMMANDS.get(name, summary) and summary.endswith((".", "?")) and "\n" not in summary
    assert len(f"python -m cover_jax.checkpoint  {summary}") <= 120  # a line of the list of commands
    parts = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert parts.index("options:") < parts.index("examples:") == len(parts) - 1


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_in_help_exist(name, capsys):
    examples = help_of(name, capsys).partition("\nexamples:\n")[2]
    commands = list(pages.commands("--help", f"```\n{examples}\n```\n"))
    assert commands and {command.module for command in commands} == {name}
    assert [mistake for command in commands for mistake in pages.command_mistakes(command)] == []


@pytest.mark.parametrize("builder", ["video_folder", "webdataset", "list_of_files", "kinetics/400", "digits"])
def test_so_do_those_of_a_builder(builder, capsys):
    examples = help_of("data_pipelines.prepare", capsys, builder).partition("\nexamples:\n")[2]
    (command,) = pages.commands("--help", f"```\n{examples}\n```\n")
    assert builder in command.words and not pages.command_mistakes(command)


def test_the_same_flag_has_the_same_help():
    """A command may narrow down what a shared flag is for, but not its form."""
    for name in COMMANDS:
        source = (ROOT / f"{name.replace('.', '/')}").with_suffix(".py")
        source = source if source.exists() else ROOT / name.replace(".", "/") / "__main__.py"
        for flag in command_line.SHARED_FLAGS:
            assert f'add_argument("--{flag}"' not in source.read_text(), f"{source}: add_shared has --{flag}"


@pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_flag_is_named(name, capsys, tmp_path):
    arguments = [argument.replace("TMP", str(tmp_path)) for argument in NOTHING_THERE[name]]
    if name.endswith(("main", "study", "plan", "preview")):
        arguments[0] = "--config=configs/demo.py"
    assert refusal(capsys, name, *arguments, "--no_such_flag=1").startswith("--no_such_flag: unknown flag")


@pytest.mark.parametrize("name", sorted({*COMMANDS} - NONE_REQUIRED))
def test_a_misspelt_flag_is_known_to_be_one(name, capsys):
    if name.endswith("plan"):
        assert refusal(capsys, name, "--topologie=v5e:2x2") == "--topologie: unknown flag; did you mean --topology?"
    elif name.endswith("preview"):
        assert refusal(capsys, name, "--cofnig=a.py") == "--cofnig: unknown flag; did you mean --config?"
    else:
        assert refusal(capsys, name, "verify", "--wrokdir=/tmp/a").startswith("--wrokdir: unknown flag; did you mean")


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_not_there_is_named(name, capsys, tmp_path):
    arguments = [argument.replace("TMP", str(tmp_path)) for argument in NOTHING_THERE[name]]
    said = refusal(capsys, name, *arguments)
    assert "nothing" in said or str(tmp_path) in said


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("cover_jax.main", ["--workdir=/tmp/a"], "--config: must be given (see python -m cover_jax.main --help)"),
        ("cover_jax.main", ["--config=a", "--workdir=b", "--mode=c"], "--mode=c: must be one of "),
        ("cover_jax.predict", ["--workdir=a", "--top=0", "x"], "--top=0: must be positive"),
        ("cover_jax.predict", ["--workdir=a", "--top=many", "x"], "--top=many: must be a whole number"),
        ("cover_jax.predict", ["--workdir=a", "--fps=few", "x"], "--fps=few: must be a number"),
        (
            "cover_jax.main",
            ["--config=configs/demo.py", "--workdir=a", "b"],
            "'b': this command takes no such argument",
        ),
        ("cover_jax.checkpoint", ["verify"], "--workdir: must be given"),
        ("cover_jax.checkpoint", ["repair"], "task=repair: must be one of"),
        ("cover_jax", ["train"], "'train': this command takes no such argument"),
    ],
)
@pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated:DeprecationWarning")
def test_what_else_is_wrong_is_named(name, arguments, said, capsys):
    assert refusal(capsys, name, *arguments).startswith(said)


@pytest.mark.parametrize("package", ["cover_jax", "data_pipelines"])
def test_the_list_has_every_command_and_loads_no_framework(package):
    modules = "[name for name in ('jax', 'tensorflow', 'tensorflow_datasets') if name in sys.modules]"
    code = f"import sys; from {package} import __main__; __main__.main([]); print({modules})"
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[-1] == "[]"
    for path in ROOT.glob(f"{package}/*/__main__.py"):
        (line,) = (line for line in lines if line.startswith(f"python -m {package}.{path.parent.name}  "))
        assert len(line.split(maxsplit=3)) == 4


# What a user could write before

OLD = [
    ("cover_jax.predict", ["--checkpoint=TMP", "clip.mp4"], "TMP/checkpoints: no checkpoints"),
    ("cover_jax.checkpoint", ["verify", "TMP"], "TMP/checkpoints: no checkpoints"),
    ("data_pipelines.doctor", ["nothing", "--output=TMP", "--data_dir=TMP"], "dataset 'nothing' is not prepared"),
    ("cover_jax.export", ["-workdir=TMP", "-head", "a", "-format=jax", "-out=b"], "TMP/checkpoints: no checkpoints"),
]


@pytest.mark.parametrize(("name", "arguments", "said"), OLD)
def test_old_flags_go_on_working_and_are_not_shown(name, arguments, said, capsys, tmp_path):
    here = [argument.replace("TMP", str(tmp_path)) for argument in arguments]
    assert said.replace("TMP", str(tmp_path)) in refusal(capsys, name, *here)
    assert not {"--checkpoint ", "--output", "old_workdir"} & set(help_of(name, capsys).split())


def parsed(*arguments: str):
    """As a command with a config, a workdir and a switch."""
    parser = command_line.Parser("cover_jax.test", "A test.\n\n    python -m cover_jax.test\n")
    config_flags.add_config(parser)
    parser.add_shared("workdir")
    parser.add_argument("--distributed", action=command_line.Switch, help="several hosts")
    return config_flags.parse(parser, arguments)


@pytest.mark.parametrize(
    ("argument", "on"),
    [("--distributed", True), ("--nodistributed", False), ("--distributed=false", False), ("--distributed=1", True)],
)
@pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated:DeprecationWarning")
def test_switches_are_as_absl_had_them(argument, on):
    assert parsed("--config=configs/demo.py", argument).distributed is on


@pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated:DeprecationWarning")
def test_values_have_their_key_s_type():
    args = parsed(
        "--config=configs/demo.py:motion", "--config.optimizer.learning_rate=1", "--config.steps", "7", "-workdir=/x",
        "--config.profile_steps=(2, 3)", "--noconfig.compilation_cache", "--config.write_compiled",
        "--config.datasets.motion.canvas_px=8", "--config.datasets.motion.canvas_px=9", "--config.model.init_from=1",
        "--config.datasets.motion.augment.flip=false", "--verbosity=-1",
    )  # fmt: skip
    config = args.config
    assert args.workdir == "/x" and config.steps == 7 and list(config.datasets) == ["motion"]
    assert config.optimizer.learning_rate == 1.0 and isinstance(config.optimizer.learning_rate, float)
    assert config.profile_steps == (2, 3) and config.datasets.motion.canvas_px == (8, 9)
    assert (config.compilation_cache, config.write_compiled, config.datasets.motion.augment.flip) == (
        False,
        True,
        False,
    )
    assert config.model.init_from == "1"


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--config.learning_rate=1e-3", "unknown key; did you mean --config.optimizer.learning_rate?"),
        ("--config.learning_rat=1e-3", "unknown key; did you mean --config.optimizer.learning_rate?"),
        ("--noconfig.flip", "--config.flip: unknown key; did you mean --config.datasets."),
        ("--config.model.number=3", "--config.model.number: unknown key"),
        ("--config.optim.name=sgd", "unknown key; did you mean --config.optimizer.name?"),
        ("--config.optimiser=sgd", "unknown key; did you mean --config.optimizer?"),
        ("--config.zzz=1", "--config.zzz: unknown key"),
        ("--config.steps=many", "--config.steps=many: must be of type int, as in "),
        ("--config.optimizer.learning_rate=fast", "learning_rate=fast: must be of type float, as in 0.0012"),
        ("--config.compilation_cache=maybe", "compilation_cache=maybe: must be of type bool, as in True"),
        ("--config.optimizer=sgd", "--config.optimizer=sgd: must be a group of keys: "),
    ],
)
def test_a_wrong_key_or_value_is_named_and_the_right_one(argument, said):
    with pytest.raises(UsageError) as error:
        config_flags.override(demo.get_config().lock(), [argument])
    assert said in str(error.value) and "<class" not in str(error.value) and "\n" not in str(error.value)


# How a command ends

PRINTS = """
import sys
from data_pipelines import command_line

@command_line.command(ValueError)
def main(arguments):
    for i in range(100_000):
        print("line", i)
    {then}

main([])
"""


def ends(then: str, reader: str = "cat") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that prints much."""
    line = f'set -o pipefail; "$0" -c "$1" | {reader}'
    done = subprocess.run(
        ["bash", "-c", line, sys.executable, PRINTS.format(then=then)], capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


def test_without_a_reader_it_ends_quietly():
    assert ends("pass", "head -n 1") == (command_line.NO_READER, "line 0\n", "")
    assert ends("raise ValueError('too late')", "head -n 1") == (command_line.NO_READER, "line 0\n", "")


@pytest.mark.parametrize(
    ("then", "code", "said"),
    [
        ("raise ValueError('a\\n   b')", errors.CONFIG, "error: a b\n"),
        ("raise FileNotFoundError(2, 'No such file', 'x.txt')", errors.CONFIG, "error: x.txt: No such file\n"),
        (
            "raise OSError(28, 'No space left on device', 'x.txt')",
            errors.FAILED,
            "error: x.txt: No space left on device\n",
        ),
        ("raise ValueError('no \\x1b[31m\\udce9.mp4')", errors.CONFIG, "error: no \\x1b[31m\\xe9.mp4\n"),
        ("raise KeyboardInterrupt", errors.INTERRUPTED, "error: interrupted\n"),
        ("raise BrokenPipeError(32, 'Broken pipe')", errors.FAILED, "Broken pipe"),
        ("raise KeyError('a bug')", errors.FAILED, "Traceback"),
    ],
)
def test_an_error_is_one_line_and_a_bug_a_traceback(then, code, said):
    ended, printed, err = ends(then)
    assert ended == code and printed.count("\n") == 100_000
    assert err == said if said.startswith("error: ") else said in err


@pytest.mark.parametrize("name", ["cover_jax", "data_pipelines.prepare"])
def test_help_in_a_pipe_ends_quietly(name):
    line = f'"$0" -m {name} --help | head -n 1'
    done = subprocess.run(["bash", "-c", line, sys.executable], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith(f"usage: python -m {name}") and not done.stderr


@pytest.mark.parametrize(("before", "inside"), [(700, command_line.GARBAGE_THRESHOLD), (10**6, 10**6), (0, 0)])
def test_a_command_looks_for_garbage_rarely_and_leaves_that_as_it_was(before, inside):
    main = command_line.command()(lambda arguments: arguments.append(gc.get_threshold()[0]))
    ours, found = gc.get_threshold(), []
    gc.set_threshold(before, *ours[1:])
    try:
        main(found)
        assert found == [inside] and gc.get_threshold() == (before, *ours[1:])
    finally:
        gc.set_threshold(*ours)


def test_json_is_written_where_it_is_asked_for(tmp_path):
    command_line.write_json("", [1])
    command_line.write_json(str(tmp_path / "a.json"), {"a": [1.5]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1.5]} and len(list(tmp_path.iterdir())) == 1


@pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated:DeprecationWarning")
def test_a_config_of_the_package_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list(config_flags.load("configs/demo.py:motion").datasets) == ["motion"]
    with pytest.raises(UsageError, match="configs/nothing.py: no such file"):
        config_flags.load("configs/nothing.py")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.py").write_text("def get_config():\n    raise ValueError('the one that is here')")
    with pytest.raises(UsageError, match="the one that is here"):
        config_flags.load("configs/demo.py")

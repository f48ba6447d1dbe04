"""What a page of the documentation says that can be checked: links, anchors, files, commands, flags, config keys.

Every function takes a page and its text and gives one line per mistake, so that tests can show it a text with mistakes.
"""

import ast
import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import io
import os
import pathlib
import re
import shlex
import subprocess
import sys
import unittest.mock
from collections.abc import Iterator

from ml_collections import ConfigDict

from configs import common

ROOT = pathlib.Path(__file__).parents[2]
OURS = ("configs", "cover_jax", "data_pipelines", "tests")  # packages whose modules and flags are checked
_FENCE = re.compile(r"^\s*```")
_LINK = re.compile(r"!?\[[^][]*(?:\[[^][]*\][^][]*)*\]\(([^()\s]+)\)")
_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)", re.DOTALL)
_FILE = re.compile(r"[\w./-]+\.(py|md|sh|ipynb|yaml|svg)")
_ENVIRONMENT = re.compile(r"[A-Z_]+=\S*")


@functools.cache
def files() -> frozenset[str]:
    """Paths of all files of the project, those that are not committed yet too."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return frozenset(name for name in names if (ROOT / name).exists())


def all_pages() -> dict[str, str]:
    """Path -> text of each page."""
    return {name: (ROOT / name).read_text() for name in sorted(files()) if name.endswith(".md")}


# Links.


def link_mistakes(page: str, text: str) -> list[str]:
    """Links that lead to no file of the project or to no heading. Addresses on the web are not followed."""
    mistakes = []
    for target in _links(text):
        path, _, anchor = target.partition("#")
        linked = _resolve(page, path) if path else page
        folder = linked.rstrip("/") + "/"
        if linked not in files() and not any(name.startswith(folder) for name in files()):
            mistakes.append(f"{page}: the link {target} leads to no file")
        elif anchor and anchor not in anchors(text if linked == page else (ROOT / linked).read_text()):
            mistakes.append(f"{page}: the link {target} leads to no heading")
    return mistakes


def unreachable(pages: dict[str, str], start: str = "README.md") -> set[str]:
    """Pages to which no chain of links leads from `start`."""
    seen, left = set(), [start]
    while left:
        page = left.pop()
        if page in pages and page not in seen:
            seen.add(page)
            left += [_resolve(page, target.partition("#")[0]) for target in _links(pages[page])]
    return pages.keys() - seen


def anchors(text: str) -> set[str]:
    """What the headings of a page are called in links, as GitHub does."""
    found: dict[str, int] = {}
    slugs = set()
    for line in _prose(text).splitlines():
        heading = re.match(r"#{1,6}\s+(.*?)\s*#*$", line)
        if heading:
            title = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", heading[1])
            slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            count = found[slug] = found.get(slug, -1) + 1
            slugs.add(f"{slug}-{count}" if count else slug)
    return slugs


def _links(text: str) -> Iterator[str]:
    """Targets of the links to files and headings of the project."""
    for target in _LINK.findall(_CODE.sub("`code`", _prose(text))):
        if not re.match(r"[a-z]+:", target):
            yield target


def _resolve(page: str, path: str) -> str:
    return os.path.normpath(os.path.join(os.path.dirname(page), path))


def _prose(text: str) -> str:
    """A page without its fenced blocks."""
    lines, fenced = [], False
    for line in text.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            lines.append(line)
    return "\n".join(lines)


# Files and config keys that a text names.


def name_mistakes(page: str, text: str) -> list[str]:
    """Files and config keys in `code` that do not exist.

    A file may be named by its path from the root or from the page's folder, or by the end of its path.
    """
    mistakes = []
    for code in _inline(text):
        path = code.partition(":")[0]
        if _FILE.fullmatch(path) and not path.startswith("/") and not _is_known_file(page, path):
            mistakes.append(f"{page}: there is no file {path}")
        key = re.match(r"config\.([a-z_][\w.]*\w)(?!\S*\()", code)
        if key and key[1] not in ("json", "py") and not _is_key(_schema(), key[1]):
            mistakes.append(f"{page}: there is no config.{key[1]}")
    return mistakes


def _is_known_file(page: str, path: str) -> bool:
    return (
        path in files()
        or _resolve(page, path) in files()
        or any(name.endswith("/" + path) for name in files())
        or re.search(r"\b(OUT|FILE|NAME|PACKAGE)\b", path) is not None
    )


def _inline(text: str) -> list[str]:
    """The pieces of `code` of a page, each on one line."""
    return [" ".join(code.split()) for code in _CODE.findall(_prose(text))]


@functools.cache
def _schema() -> ConfigDict:
    """The config of a run, with one dataset that stands for each."""
    config = common.get_config()
    config.datasets["NAME"] = common.dataset()
    return config


def _is_key(config: ConfigDict, key: str) -> bool:
    """Whether a config has a key, as in "model.size_px". Below `datasets` any name stands for a dataset."""
    value = config
    for part in key.split("."):
        if not isinstance(value, ConfigDict):
            return False
        if part not in value and value is _schema().datasets:
            part = "NAME"
        if part not in value:
            return False
        value = value[part]
    return True


# Commands.


@dataclasses.dataclass(frozen=True)
class Command:
    """One command of a page: its words, without variables before it."""

    page: str
    words: tuple[str, ...]

    @property
    def module(self) -> str | None:
        """What `python -m` runs, if that is this project's."""
        words = self.words
        if len(words) > 2 and words[0] in ("python", "python3") and words[1] == "-m":
            return words[2] if words[2].partition(".")[0] in OURS else None
        return None

    @property
    def script(self) -> str | None:
        return self.words[0] if self.words[0].startswith("launch/") else None


def commands(page: str, text: str) -> Iterator[Command]:
    """Commands of fenced blocks, and those in `code` that begin with python, pip, pytest or launch/."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines() if language in ("bash", "sh", "") else ():
            yield from _commands_of_line(page, line)
    for code in _inline(text):
        if re.match(r"([A-Z_]+=\S+ )*(python -m|pip install|pytest|launch/)", code):
            yield from _commands_of_line(page, code)


def docstring_commands(path: str, code: str) -> Iterator[Command]:
    """Commands on indented lines of a module's docstring."""
    text = (ast.get_docstring(ast.parse(code), clean=False) or "").replace("\\\n", " ")
    for line in re.findall(r"^ +((?:python -m|launch/).*)", text, re.MULTILINE):
        yield from _commands_of_line(path, line)


def _commands_of_line(page: str, line: str) -> Iterator[Command]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&")
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # no command: a quotation of what one prints
        return
    command: list[str] = []
    for word in [*words, ";"]:
        if set(word) <= set(";|&"):
            if command:
                yield Command(page, tuple(command))
            command = []
        elif command or not _ENVIRONMENT.fullmatch(word):
            command.append(word)


def command_mistakes(command: Command) -> list[str]:
    """Modules, scripts, flags, config files, config keys, tests and extras of a command that do not exist."""
    words = command.words
    if command.module:
        found = _module_mistakes(command.module, words[3:])
    elif command.script:
        found = _script_mistakes(command.script, words[1:])
    elif words[0] == "pytest":
        found = _pytest_mistakes(words[1:])
    elif words[:2] == ("pip", "install"):
        found = _pip_mistakes(words[2:])
    else:
        return []
    return [f"{command.page}: {mistake} (in: {' '.join(words)})" for mistake in found]


def _module_mistakes(module: str, words: tuple[str, ...]) -> list[str]:
    if not _is_runnable(module):
        return [f"there is no command {module}"]
    flags = [word for word in words if re.match(r"--\w", word)]
    if not flags:
        return []
    config, wrong = _config_of(flags)
    mistakes = list(wrong)
    known = known_flags(module, _subcommand(module, words))
    for flag in flags:
        name = flag[2:].partition("=")[0]
        if name.startswith("config."):
            if not _is_key(config or _schema(), name.removeprefix("config.")):
                mistakes.append(f"there is no --{name}")
        elif name not in known and not (name.startswith("no") and name[2:] in known):
            mistakes.append(f"{module} has no flag --{name}")
    return mistakes


def _is_runnable(module: str) -> bool:
    """Whether `python -m` finds it: a module, or a package with a __main__."""
    try:
        spec = importlib.util.find_spec(module)
        if spec and spec.submodule_search_locations:
            spec = importlib.util.find_spec(f"{module}.__main__")
    except ModuleNotFoundError:
        return False
    return spec is not None


def _subcommand(module: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """The first words that decide which flags there are."""
    if module == "data_pipelines.prepare" and not words[0].startswith("-"):
        builder = words[0].partition("/")[0]
        return (builder if builder != "imagenet2012" else "imagenet21k",)  # TFDS's own builders take a while to say
    return ()


@functools.cache
def known_flags(module: str, subcommand: tuple[str, ...] = ()) -> frozenset[str]:
    """Flags that the command's own help lists; of one that needs a package that is not installed, those in its file."""
    try:
        known = _flags_in(_help_of(module, *subcommand))
    except ModuleNotFoundError:
        known = frozenset(re.findall(r'"--(\w+)"', (ROOT / f"{module.replace('.', '/')}.py").read_text()))
    if "raw" in known:  # the doctor: what follows --raw are flags of preparing
        known |= known_flags("data_pipelines.prepare", ("video_folder",))
    return known


def _help_of(module: str, *words: str) -> str:
    """What the command prints, run in this process: another one would import all that is imported here."""
    spec = importlib.util.find_spec(module)
    is_package = bool(spec and spec.submodule_search_locations)
    main = importlib.import_module(f"{module}.__main__" if is_package else module).main
    output = io.StringIO()
    arguments = [*words, "--help"]
    with (
        unittest.mock.patch.object(sys, "argv", [module, *arguments]),
        contextlib.redirect_stdout(output),
        contextlib.suppress(SystemExit),
    ):
        main(arguments) if inspect.signature(main).parameters else main()
    return output.getvalue()


def _script_mistakes(script: str, words: tuple[str, ...]) -> list[str]:
    if script not in files():
        return [f"there is no script {script}"]
    if script == "launch/local.sh":
        own, of_main = (), words
    else:
        cut = words.index("--") if "--" in words else len(words)
        own, of_main = words[:cut], words[cut + 1 :]
    help_text = _output(["bash", script, "--help"])
    known = _flags_in(help_text) | {"help", "dry-run"}
    named = [word[2:].partition("=")[0] for word in own if word.startswith("--")]
    mistakes = [f"{script} has no flag --{name}" for name in named if name not in known]
    if own and re.fullmatch(r"[a-z_]+", own[0]) and not re.search(rf"^ +{own[0]} ", help_text, re.MULTILINE):
        mistakes.append(f"{script} has no command {own[0]}")
    return mistakes + _module_mistakes("cover_jax.main", tuple(word for word in of_main if word != "--dry-run"))


def _pytest_mistakes(words: tuple[str, ...]) -> list[str]:
    mistakes = []
    for word in words:
        path, _, test = word.partition("::")
        if path.startswith("tests"):
            if not (ROOT / path).exists():
                mistakes.append(f"there is no {path}")
            elif test and f"def {test.partition('[')[0]}(" not in (ROOT / path).read_text():
                mistakes.append(f"there is no test {test} in {path}")
    return mistakes


def _pip_mistakes(words: tuple[str, ...]) -> list[str]:
    mistakes = []
    setup = (ROOT / "setup.py").read_text()
    for before, word in zip(("", *words), words, strict=False):
        if before == "-r" and word not in files():
            mistakes.append(f"there is no {word}")
        extras = re.fullmatch(r"\.\[([\w,]+)\]", word)
        for extra in extras[1].split(",") if extras else ():
            if f'"{extra}": ' not in setup:
                mistakes.append(f"setup.py has no extra {extra}")
    return mistakes


def _config_of(flags: list[str]) -> tuple[ConfigDict | None, tuple[str, ...]]:
    """The config that --config=FILE:ARGUMENT gives, if one of this project's is named, and what is wrong with it."""
    named = [flag.partition("=")[2] for flag in flags if flag.startswith("--config=")]
    file, _, argument = named[0].partition(":") if named else ("", "", "")
    if not file.endswith(".py") or file.isupper():
        return None, ()
    if file not in files():
        return None, (f"there is no config {file}",)
    return _load_config(file, argument)


@functools.cache
def _load_config(file: str, argument: str) -> tuple[ConfigDict | None, tuple[str, ...]]:
    get_config = importlib.import_module(file.removesuffix(".py").replace("/", ".")).get_config
    try:
        return (get_config(argument) if argument else get_config()), ()
    except Exception as error:  # whatever a config says of its argument
        return None, (f"the config {file}:{argument} does not load: {error}",)


def _output(line: list[str]) -> str:
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout + done.stderr


def _flags_in(help_text: str) -> frozenset[str]:
    """Flags of argparse's, absl's and the scripts' help: where a line begins with one, and in argparse's usage."""
    known = set(re.findall(r"\[--(\w[\w-]*)", help_text))
    for line in help_text.splitlines():
        if line.strip().startswith("-"):
            known |= set(re.findall(r"--(?:\[no\])?(\w[\w-]*)", line.strip().partition("  ")[0]))
    return frozenset(known)

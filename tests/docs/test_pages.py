"""The pages of the documentation: links, anchors, named files, commands with their flags and config keys."""

import re

import pytest

from tests.docs import pages

PAGES = pages.all_pages()
LONGEST_README = 130  # lines


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    assert not pages.link_mistakes(page, PAGES[page])


@pytest.mark.parametrize("page", PAGES)
def test_named_files_and_config_keys_exist(page):
    assert not pages.name_mistakes(page, PAGES[page])


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist_with_their_flags(page):
    assert not _command_mistakes(PAGES[page], page)


@pytest.mark.parametrize("package", pages.OURS)
def test_commands_in_docstrings_exist_with_their_flags(package):
    paths = [path for path in pages.files() if path.startswith(f"{package}/") and path.endswith(".py")]
    commands = [c for path in sorted(paths) for c in pages.docstring_commands(path, (pages.ROOT / path).read_text())]
    assert commands
    assert not [mistake for command in commands for mistake in pages.command_mistakes(command)]


def test_every_page_is_reached_from_the_readme():
    assert not pages.unreachable(PAGES)


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= LONGEST_README


def test_the_readme_keeps_the_newcomers_commands():
    first, second = re.findall(r"```bash\n(.*?)```", PAGES["README.md"], re.DOTALL)[:2]
    assert first.startswith("pip install -e . && \\\n    python -m cover_jax.main --config=configs/demo.py:appearance ")
    assert second == "pip install -e '.[test]' && pytest\n"


@pytest.mark.parametrize(
    ("link", "mistake"),
    [
        ("[a](NO_SUCH.md)", "leads to no file"),
        ("[a](../README.md)", "leads to no file"),
        ("![a](configs/no.svg)", "leads to no file"),
        ("[a](#no-such-heading)", "leads to no heading"),
        ("[a](CHANGELOG.md#no-such-heading)", "leads to no heading"),
        ("[a](#a-heading-1)", ""),
        ("[a `b` c](CHANGELOG.md)", ""),
        ("[a](configs)", ""),
        ("[a](https://example.com/no/such)", ""),
        ("`[a](NO_SUCH.md)`", ""),
        ("```\n[a](NO_SUCH.md)\n```", ""),
    ],
)
def test_a_wrong_link_is_seen(link, mistake):
    found = pages.link_mistakes("README.md", f"# A `heading`!\n\n## A heading\n\n{link}\n")
    assert mistake in found[0] if mistake else not found


def test_anchors_are_githubs():
    text = "# CoVeR-B/16, H/14 and g/14\n## `a_b`: c & d\n```\n# no heading\n```\n## [Link](x.md) here\n"
    assert pages.anchors(text) == {"cover-b16-h14-and-g14", "a_b-c--d", "link-here"}


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("`cover_jax/no_such.py`", "no file"),
        ("`no_such.py`", "no file"),
        ("`config.model.no_such`", "no config.model.no_such"),
        ("`config.datasets.any_name.no_such`", "no config.datasets.any_name.no_such"),
        ("`config.datasets.any_name.augment.flip`", ""),
        ("`config.model.head`", ""),
        ("`config.json`", ""),
        ("`cover_jax/main.py`", ""),
    ],
)
def test_a_wrong_name_is_seen(name, mistake):
    found = pages.name_mistakes("README.md", name)
    assert mistake in found[0] if mistake else not found


@pytest.mark.parametrize(
    ("command", "mistake"),
    [
        ("python -m cover_jax.no_such --workdir=/tmp/a", "no command cover_jax.no_such"),
        ("python -m cover_jax.models --workdir=/tmp/a", "no command cover_jax.models"),
        ("python -m cover_jax.main --config=configs/demo.py --work=/tmp/a", "no flag --work"),
        ("A=1 python -m cover_jax.main --config=configs/demo.py --nodir=/tmp/a", "no flag --nodir"),
        ("cd x && python -m data_pipelines.prepare video_folder --no_such=1", "no flag --no_such"),
        ("python -m cover_jax.main --config=configs/no_such.py", "no config configs/no_such.py"),
        ("python -m cover_jax.main --config=configs/demo.py:no_such", "does not load"),
        ("python -m cover_jax.main --config=configs/demo.py --config.no_such=1", "no --config.no_such"),
        ("python -m cover_jax.main --config=configs/demo.py --config.datasets.k400.weight=1", "no --config.datasets"),
        ("python -m cover_jax.main --config=configs/demo.py --config.datasets.motion.weight=1", ""),
        ("python -m cover_jax.main --config=FILE --config.datasets.mine.weight=1 --nodistributed", ""),
        ("launch/no_such.sh run", "no script"),
        ("launch/tpu_vm.sh no_such --name=a", "no command no_such"),
        ("launch/tpu_vm.sh run --no_such=a", "no flag --no_such"),
        ("launch/tpu_vm.sh run --name=a -- --no_such=1", "no flag --no_such"),
        ("launch/local.sh 2 --config=configs/demo.py --workdir=/tmp/a", ""),
        ("pytest tests/no_such.py", "no tests/no_such.py"),
        ("pytest tests/docs/test_pages.py::test_no_such", "no test test_no_such"),
        ("pytest -n 0 tests/docs/test_pages.py::test_the_readme_is_short", ""),
        ("pip install -e '.[no_such]'", "no extra no_such"),
        ("pip install -e '.[plan,test]'", ""),
    ],
)
def test_a_wrong_command_is_seen(command, mistake):
    for text in (f"```bash\n{command}\n```\n", f"See `{command.removeprefix('cd x && ')}`."):
        found = _command_mistakes(text)
        assert mistake in found[0] if mistake else not found


def test_a_wrong_flag_on_a_later_line_is_seen():
    text = "```\npython -m cover_jax.report \\\n    --workdir=/tmp/a --no_such=1  # a comment\n```\n"
    assert "no flag --no_such" in _command_mistakes(text)[0]


def test_a_wrong_flag_after_a_block_of_another_language_is_seen():
    text = "```python\nx = 1\n```\n\nThen:\n\n```bash\npython -m cover_jax.report --no_such=1\n```\n"
    assert "no flag --no_such" in _command_mistakes(text)[0]


def test_a_wrong_flag_in_a_docstring_is_seen():
    code = '"""Does it.\n\n    python -m cover_jax.report \\\\\n        --workdir=/tmp/a --no_such=1\n"""'
    (command,) = pages.docstring_commands("a.py", code)
    assert "no flag --no_such" in pages.command_mistakes(command)[0]


def test_a_page_that_nothing_links_to_is_seen():
    linked = {"README.md": "[a](docs/A.md)", "docs/A.md": "[b](B.md#x)", "docs/B.md": "", "docs/C.md": "[a](A.md)"}
    assert pages.unreachable(linked) == {"docs/C.md"}


def _command_mistakes(text, page="README.md"):
    return [mistake for command in pages.commands(page, text) for mistake in pages.command_mistakes(command)]

"""Every recipe of EXTENDING.md: its file and its registry line are added, and its check runs."""

import ast
import importlib
import importlib.util
import pathlib
import re
import sys

import pytest

PAGE = (pathlib.Path(__file__).parents[2] / "cover_jax" / "EXTENDING.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def blocks(section: str) -> list[tuple[str, str]]:
    """(first line without its "# ", the rest) of each block of Python."""
    return re.findall(r"```python\n# (.*?)\n(.*?)```", section, re.DOTALL)


def module_name(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


def add_line(monkeypatch, place: str, line: str):
    """Adds a line to NAME of PATH, a registry that is a dict or a tuple."""
    name, path = place.split(" of ")
    module = importlib.import_module(module_name(path))
    registry = getattr(module, name)
    if isinstance(registry, dict):
        monkeypatch.setattr(module, name, registry | eval("{" + line + "}", vars(module)))
    else:
        monkeypatch.setattr(module, name, (*ast.literal_eval(f"({line})"), *registry))


def add_file(monkeypatch, path: str, code: str):
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(module_name(path), loader=None))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, path, "exec"), module.__dict__)


@pytest.fixture
def fresh_families():
    from cover_jax.models.pretrained.families import recognise

    recognise.families.cache_clear()
    yield
    recognise.families.cache_clear()


@pytest.mark.parametrize("title", [title for title, text in SECTIONS.items() if "# check\n" in text])
def test_a_recipe_works_as_it_stands_on_the_page(title, monkeypatch, fresh_families):
    checks = 0
    for first, code in blocks(SECTIONS[title]):
        if first == "check":
            exec(compile(code, f"EXTENDING.md: {title}", "exec"), {})
            checks += 1
        elif " of " in first:
            add_line(monkeypatch, first, code)
        else:
            add_file(monkeypatch, first, code)
    assert checks == 1


def test_each_section_has_a_recipe():
    assert SECTIONS and all("# check\n" in text for text in SECTIONS.values())

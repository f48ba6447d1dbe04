"""Files that name classes, in any of the forms in use, and which names a dataset can keep.

Forms, each with the source of an example:

- a name per line, with any spaces and commas in it: MMAction2 (tools/data/*/label_map.txt);
- a number and a name per line: UCF101 (classInd.txt), ARID (mapping_table.txt);
- a name and a number per line: Moments in Time (moments_categories.txt);
- either of these below a line that names the columns, such as "id,name";
- JSON, name -> number: SlowFast (its configs' LABEL_FILE_PATH), PyTorchVideo (kinetics_classnames.json, whose names are
  in quotes of their own), Something-Something (labels.json);
- JSON, number -> name: `id2label`, alone (huggingface/label-files) or in a model's config.json (TimeSformer at Hugging
  Face); number -> [wnid, name]: Keras (imagenet_class_index.json); the same as a Python dict
  (imagenet1000_clsidx_to_labels.txt);
- JSON, a list of names, or of objects with an id and a name;
- a wnid and words per line: ImageNet (LOC_synset_mapping.txt, words.txt). The class is then called by both.
"""

import ast
import collections
import dataclasses
import functools
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from etils import epath

from data_pipelines.escaping import escape, quote
from data_pipelines.sources import tables

WNID_FILES = r"words\.txt|LOC_synset_mapping\.txt|synset_words\.txt"  # of image-net.org, of Kaggle, of Caffe
_WNID = re.compile(r"(n\d{8})\s+(\S.*)")  # of WordNet, as ImageNet uses it
_NUMBER_WORDS = {"id", "index", "idx", "number", "no", "label_id", "class_id", "classid", "label_index", "class_index"}
_NAME_WORDS = {"name", "names", "class", "classes", "class_name", "class_names", "classname", "classnames",
               "label_name", "label_names", "labels", "category", "action"}  # fmt: skip
_EITHER_WORD = "label"  # of two columns it is the one that the other leaves
_NUMBER_FIRST, _NUMBER_LAST = "number first", "number last"

Numbered = tuple[str, int, str]  # where it stands, the number, the name


@dataclasses.dataclass(frozen=True)
class ClassNames:
    """What a file of class names says.

    Attributes:
        names: in the order of the labels.
        numbers: the number of a class, as text -> its name; where the file has none, its place in it, from 0.
        wnids: the wnid of a class, if it has one -> its name.
        are_numbered: whether the file has the numbers.
    """

    names: tuple[str, ...]
    numbers: dict[str, str]
    wnids: dict[str, str]
    are_numbered: bool = False

    def find(self, label: str) -> str | None:
        """The class that a list or folder calls by its name, wnid or number; None if there is none.

        Raises:
            ValueError: it is the name of one class and the number of another.
        """
        if label in self._known:
            other = self.numbers.get(label, label)
            if other != label:
                raise ValueError(f"{quote(label)} is the name of one class and the number of another, {quote(other)}")
            return label
        return self.wnids.get(label) or self.numbers.get(label)

    @functools.cached_property
    def _known(self) -> set[str]:
        return set(self.names)


def normalize(name: str) -> str:
    """The one form of a name that can be written in several: Unicode's NFC. macOS writes file names in NFD."""
    return unicodedata.normalize("NFC", name)


def read_class_names(path: epath.Path) -> ClassNames:
    """Reads a file of class names, in any of the forms above.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is in none of these forms, or names a class or a number twice; the message says where.
    """
    text = tables.read_text(path).strip()
    numbered = _of_data(path, text) if text[:1] in ("{", "[") else None
    numbered, are_numbered = (
        (_of_lines(path) if text else ([], False)) if numbered is None else (numbered, text[0] == "{")
    )
    if not numbered:
        raise ValueError(f"{escape(path)} names no class")
    numbered = [(where, number, normalize(name)) for where, number, name in numbered]
    _check_once(numbered, lambda row: row[1], "number")
    _check_once(numbered, lambda row: row[2], "class")
    numbered.sort(key=lambda row: row[1])
    check(tuple(name for _, _, name in numbered), f"{escape(path)}: ")
    class_names = tuple(name for _, _, name in numbered)
    wnids = {found[1]: name for name in class_names if (found := _WNID.fullmatch(name))}
    return ClassNames(class_names, {str(number): name for _, number, name in numbered}, wnids, are_numbered)


def of_labels(labels: Iterable[str], where: str = "", by_number: bool = True) -> ClassNames:
    """The classes of labels that were found: sorted by name, or by number if all are numbers.

    Args:
        labels: the labels.
        where: the begin of the message.
        by_number: whether numbers are sorted as such.

    Raises:
        ValueError: there are none, or one cannot be kept.
    """
    found = set(labels)
    numbers = by_number and all(label.isdecimal() for label in found)
    ordered = tuple(sorted(found, key=lambda label: (int(label), label) if numbers else label))
    if not ordered:
        raise ValueError(f"{where or 'the training split: '}no file has a class")
    check(ordered)
    return ClassNames(ordered, {}, {})


def check(class_names: Sequence[str], where: str = "") -> None:
    """Refuses names that the file of a dataset's labels, a line per class, would not give back as they are.

    Args:
        class_names: the names.
        where: the begin of the message.

    Raises:
        ValueError: one is empty, has blanks at its ends, a control character, or is not UTF-8; or two look the same.
    """
    for name in class_names:
        if reason := _fault(name):
            raise ValueError(
                f"{where}class {quote(name)}: {reason}. Names of classes are kept one per line in a text file, "
                "which would not give it back as it is: rename it"
            )
    for looks, same in _by_form(class_names).items():
        if len(same) > 1:
            forms = " and ".join(ascii(name) for name in same)
            raise ValueError(f"{where}{len(same)} classes are called {quote(looks)}: {forms}; rename one of them")


def _fault(name: str) -> str:
    if not name.strip():
        return "it is empty"
    if re.search("[\ud800-\udfff]", name):
        return "it is not UTF-8"
    if escape(name).replace("\\\\", "\\") != name:
        return "it has a control character or a line feed"
    return "it begins or ends with a blank" if name != name.strip() else ""


def _by_form(class_names: Iterable[str]) -> dict[str, list[str]]:
    groups = collections.defaultdict(list)
    for name in class_names:
        groups[normalize(name)].append(name)
    return groups


def _check_once(numbered: list[Numbered], key: Callable[[Numbered], int | str], kind: str) -> None:
    seen: dict[int | str, str] = {}
    for row in numbered:
        if key(row) in seen:
            raise ValueError(
                f"{row[0]}: {kind} {quote(key(row))} is there twice, also in {seen[key(row)].rpartition(', ')[2]}"
            )
        seen[key(row)] = row[0]


def _of_lines(path: epath.Path) -> tuple[list[Numbered], bool]:
    """The classes of a text file, and whether it has their numbers."""
    lines, order = _without_header(tables.read_lines(path))
    for this, split in ((_NUMBER_FIRST, _split_number_first), (_NUMBER_LAST, _split_number_last)):
        found = [(line, *pair) for line, text in lines if (pair := split(text))]
        if order in ("", this) and len(found) == len(lines):
            rows = [(tables.at(path, line), number, _clean(name)) for line, number, name in found]
            if order or _are_labels(rows):
                return rows, True
            _refuse_doubtful_numbers(rows, lines)
    return [(tables.at(path, line), index, _clean(text)) for index, (line, text) in enumerate(lines)], False


def _split_number_first(line: str) -> tuple[int, str] | None:
    """A number and the name after it."""
    digits = re.match(r"[0-9]+", line)
    if digits is None:
        return None
    rest = line[digits.end() :]
    name = rest.lstrip(" \t,;:")
    return (int(digits[0]), name) if name and len(name) < len(rest) else None


def _split_number_last(line: str) -> tuple[int, str] | None:
    """A number and the name before it."""
    digits = re.search(r"[0-9]+$", line)
    if digits is None:
        return None
    rest = line[: digits.start()]
    name = rest.rstrip(" \t,;:")
    return (int(digits[0]), name) if name and len(name) < len(rest) else None


def _without_header(lines: list[tables.Line]) -> tuple[list[tables.Line], str]:
    """The lines below one that names the columns, and the order of these; all lines and "" if there is none."""
    words = [_word(cell) for cell in re.split(r"[\t,;]|\s+", lines[0][1])] if len(lines) > 1 else []
    if len(words) == 1 and words[0] in {*_NAME_WORDS, _EITHER_WORD}:
        return lines[1:], ""
    if len(words) == 2:
        for order, (number, name) in ((_NUMBER_FIRST, words), (_NUMBER_LAST, words[::-1])):
            one_is_plain = number in _NUMBER_WORDS or name in _NAME_WORDS
            if number in {*_NUMBER_WORDS, _EITHER_WORD} and name in {*_NAME_WORDS, _EITHER_WORD} and one_is_plain:
                return lines[1:], order
    return lines, ""


def _word(cell: str) -> str:
    return re.sub(r"[\s-]", "_", cell.strip().strip('"#').strip().lower())


def _are_labels(rows: list[Numbered]) -> bool:
    """Whether the numbers are those of the classes, and not a part of names such as "2 step"."""
    numbers = {number for _, number, _ in rows}
    distinct = len({name for _, _, name in rows}) == len(rows)
    return distinct and numbers in (set(range(len(rows))), set(range(1, len(rows) + 1)))


def _refuse_doubtful_numbers(rows: list[Numbered], lines: list[tables.Line]) -> None:
    """Refuses numbers that may be labels and may be a part of names: a wrong guess would shift all labels."""
    separated = any(re.search(r"[\t,;]", text) for _, text in lines)
    numbers = collections.Counter(number for _, number, _ in rows)
    twice = next((row for row in rows if numbers[row[1]] > 1), None)
    if twice and separated:
        raise ValueError(f"{twice[0]}: number {twice[1]} is there twice; each class needs a number of its own")
    if twice or len({name for _, _, name in rows}) < len(rows):
        return  # "2 step" and "2 stroke", or "gym 1" and "gym 2": names
    lacking = next(number for number in range(min(*numbers, 1), len(rows) + 1) if number not in numbers)
    raise ValueError(
        f"{rows[0][0]}: each line has a number, but they are not 0 to {len(rows) - 1} or 1 to {len(rows)}: {lacking} "
        "is missing. Add the missing classes, or, if the numbers belong to the names, write the names as a JSON list"
    )


def _of_data(path: epath.Path, text: str) -> list[Numbered] | None:
    """The classes of a JSON file, or of a Python dict; None if it is neither."""
    try:
        data = json.loads(text, object_pairs_hook=lambda pairs: _object(path, pairs))
    except json.JSONDecodeError as error:
        data = _literal(text)
        if data is None and path.suffix.lower() == ".json":
            raise ValueError(f"{tables.at(path, error.lineno)}: it is not JSON: {error.msg}") from error
    except RecursionError as error:
        raise ValueError(f"{escape(path)}: it is nested too deeply to be a list of classes") from error
    if isinstance(data, dict):
        inner = [data[key] for key in ("id2label", "label2id") if isinstance(data.get(key), dict)]
        return _of_dict(path, inner[0] if inner else data)
    return _of_list(path, data) if isinstance(data, list) else None


def _object(path: epath.Path, pairs: list[tuple[str, object]]) -> dict:
    twice = next((key for key, count in collections.Counter(key for key, _ in pairs).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"{escape(path)}: {quote(twice)} is there twice")
    return dict(pairs)


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _of_dict(path: epath.Path, data: dict) -> list[Numbered]:
    if data and all(_is_number(key) for key in data):
        pairs = list(data.items())
    elif data and all(_is_number(value) for value in data.values()):
        pairs = [(number, name) for name, number in data.items()]
    else:
        raise ValueError(
            f"{escape(path)}: a JSON object must be class -> number or number -> class, or have such an object "
            "as 'id2label'"
        )
    return [(f"{escape(path)}, entry {i}", int(n), _name(path, name)) for i, (n, name) in enumerate(pairs, 1)]


def _of_list(path: epath.Path, data: list) -> list[Numbered]:
    if data and all(isinstance(entry, dict) and _is_number(entry.get("id")) for entry in data):
        pairs = [(entry["id"], entry.get("name")) for entry in data]
    else:
        pairs = list(enumerate(data))
    return [(f"{escape(path)}, entry {i}", int(n), _name(path, name)) for i, (n, name) in enumerate(pairs, 1)]


def _is_number(value: object) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool) and value >= 0) or (
        isinstance(value, str) and value.isdecimal() and value.isascii()
    )


def _name(path: epath.Path, value: object) -> str:
    """A class's name in JSON: text, or the wnid and the name."""
    given = value if isinstance(value, list | tuple) else [value]
    parts = [part for part in given if isinstance(part, str)]
    if not parts or len(parts) < len(given):
        raise ValueError(f"{escape(path)}: {quote(repr(value)[:80])} is no name of a class")
    return _clean(" ".join(parts))


def _clean(name: str) -> str:
    """A name without the quotes around it; a wnid is followed by one blank."""
    name = name.strip()
    if len(name) > 2 and name[0] == name[-1] == '"':
        name = name[1:-1].replace('""', '"').strip()
    return _WNID.sub(r"\1 \2", name)

"""Files of class names in the forms in use, each called after who uses it."""

import json

import pytest
from etils import epath

from data_pipelines.sources import class_names

HIGH = ("jump high", "run, fast", "sit")

FORMS = {
    "MMAction2": "jump high\nrun, fast\nsit\n",
    "Excel": "\ufeffjump high\r\nrun, fast\r\nsit\r\n",
    "with a header": "class_name\njump high\nrun, fast\nsit\n",
    "UCF101": "1 jump high\r\n2 run, fast\r\n3 sit\r\n",
    "ARID": "0\tjump high\n1\trun, fast\n2\tsit\n",
    "not in order": "2\tsit\n0\tjump high\n1\trun, fast\n",
    "id,name": 'id,name\n0,jump high\n1,"run, fast"\n2,sit\n',
    "name,id": 'class,label\njump high,0\n"run, fast",1\nsit,2\n',
    "Moments in Time": "jump high,0\nrun, fast,1\nsit,2\n",
    "colons": "0: jump high\n1: run, fast\n2: sit\n",
    "SlowFast": json.dumps({"sit": 2, "jump high": 0, "run, fast": 1}),
    "PyTorchVideo": json.dumps({'"sit"': 2, '"jump high"': 0, '"run, fast"': 1}),
    "Something-Something": json.dumps({"sit": "2", "jump high": "0", "run, fast": "1"}),
    "Hugging Face's label-files": json.dumps({"0": "jump high", "1": "run, fast", "2": "sit"}),
    "Hugging Face's config.json": json.dumps(
        {"hidden_size": 768, "id2label": {"0": "jump high", "1": "run, fast", "2": "sit"}, "label2id": {}}
    ),
    "label2id": json.dumps({"label2id": {"jump high": 0, "run, fast": 1, "sit": 2}}),
    "a JSON list": json.dumps(HIGH),
    "COCO": json.dumps([{"id": 7, "name": "sit"}, {"id": 1, "name": "jump high"}, {"id": 2, "name": "run, fast"}]),
    "a Python dict": "{0: 'jump high',\n 1: 'run, fast',\n 2: 'sit'}",
}


def read(tmp_path, text, name="names.txt"):
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return class_names.read_class_names(epath.Path(tmp_path / name))


@pytest.mark.parametrize("form", FORMS)
def test_forms_in_use(tmp_path, form):
    found = read(tmp_path, FORMS[form])
    assert found.names == HIGH
    assert [found.find(name) for name in HIGH] == list(HIGH) and found.find("run") is None
    first = {"UCF101": 1, "COCO": 1}.get(form, 0)
    assert found.find(str(first)) == "jump high" and found.find(str(first + 1)) == "run, fast"


@pytest.mark.parametrize(
    "text",
    [
        "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n",  # LOC_synset_mapping.txt
        "n01440764\ttench, Tinca tinca\nn01443537\tgoldfish, Carassius auratus\n",  # words.txt
        json.dumps(
            {"0": ["n01440764", "tench, Tinca tinca"], "1": ["n01443537", "goldfish, Carassius auratus"]}
        ),  # Keras
    ],
)
def test_words_of_imagenet_keep_their_wnids(tmp_path, text):
    found = read(tmp_path, text)
    assert found.names == ("n01440764 tench, Tinca tinca", "n01443537 goldfish, Carassius auratus")
    assert found.find("n01443537") == found.find("1") == found.names[1]


@pytest.mark.parametrize(
    "name", ["2 step", "10 pin bowling", "Channel 4", "(VT) round-off, flic-flac on, 2.5 turn off"]
)
def test_numbers_may_belong_to_names(tmp_path, name):
    assert read(tmp_path, f"{name}\nrun\n").names == (name, "run")
    assert read(tmp_path, "gym 1\ngym 2\n").names == ("gym 1", "gym 2")
    assert read(tmp_path, "2 step\n2 stroke\n").names == ("2 step", "2 stroke")
    assert read(tmp_path, "0\n1\n2\n").names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"names\.txt names no class"),
        ("run\nsit\nrun\n", r"names\.txt, line 3: class 'run' is there twice, also in line 1"),
        ("0 run\n1 run\n", None),  # names: "0 run", "1 run"
        ("0,run\n0,sit\n", r"line 1: number 0 is there twice; each class needs a number of its own"),
        (
            "0 run\n2 sit\n",
            r"line 1: each line has a number, but they are not 0 to 1 or 1 to 2: 1 is missing. .*JSON list",
        ),
        ("run,0\nsit,3\n", r"1 is missing"),
        ("caf\u00e9\ncafe\u0301\n", "is there twice"),
        (b"caf\xe9\n", r"line 1: byte 0xe9 is not UTF-8"),
        ("run\nj\x1b[31mump\n", r"class 'j\\x1b\[31mump': it has a control character"),
        ('{"run": 0, "run": 1}', "'run' is there twice"),
        ('{"run": 0, "sit": 0}', r"entry 2: number '0' is there twice, also in .*entry 1"),
        ('{"run": [0], "sit": 1}', r"a JSON object must be class -> number or number -> class"),
        ('{"0": 5.5}', "is no name of a class"),
        ('{"0": "a\\nb"}', r"class 'a\\x0ab': it has a control character or a line feed"),
        ('{"0": "\\ud800"}', "it is not UTF-8"),
        ('{"0": ""}', "it is empty"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_does_not_read_is_refused_by_name(tmp_path, text, message):
    if message is None:
        assert read(tmp_path, text).names == ("0 run", "1 run")
        return
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_broken_json_is_named_with_its_line(tmp_path):
    with pytest.raises(ValueError, match=r"names\.json, line 2: it is not JSON"):
        read(tmp_path, '{"a": 0,\n b: 1}', "names.json")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        class_names.read_class_names(epath.Path(tmp_path / "none.txt"))


@pytest.mark.parametrize(
    "names", [("run", "run "), ("run", "a\nb"), ("run", ""), ("run", "caf\udce9"), ("\u00e9", "e\u0301")]
)
def test_names_that_the_label_file_would_change_are_refused(names):
    with pytest.raises(ValueError, match="rename"):
        class_names.check(names)

"""Descriptions: what is written is read again, and what no version wrote gets a sentence."""

import json
from dataclasses import replace

import pytest

from maskrcnn.runtimes.description import FORMAT, Description, InputFormat, read_description
from maskrcnn.types import Metadata

DESCRIPTION = Description(
    recipe="resnet18_fpn",
    metadata=Metadata(("cat", "dog"), (3, 17), ("nose", "tail"), ((0, 1),), (0.25, 0.5)),
    input=InputFormat(None, None, 3, 32, 96, (1.0, 2.0, 3.0), (1.0, 1.0, 1.5), bgr=False),
    short_side=None,
    long_side=400,
    white=4095,
    max_detections=2,
    score_threshold=0.05,
)


def changed(**values):
    """The JSON of a description with other values, by their dotted names."""
    plain = json.loads(DESCRIPTION.to_json())
    for name, value in values.items():
        group, _, field = name.rpartition("__")
        (plain[group] if group else plain)[field] = value
    return json.dumps(plain)


@pytest.mark.parametrize("size_hw", [None, (64, 96)])
def test_a_description_is_read_as_it_was_written(size_hw, tmp_path):
    fixed = replace(DESCRIPTION.input, size_hw=size_hw, batch=size_hw and 2)
    for description in (DESCRIPTION, replace(DESCRIPTION, input=fixed, short_side=800)):
        assert read_description(description.to_json(), tmp_path) == description


def test_a_description_of_the_format_before_has_no_score_thresholds(tmp_path):
    plain = json.loads(changed(format=3))
    del plain["metadata"]["score_thresholds"]
    read = read_description(json.dumps(plain), tmp_path)
    assert read == replace(DESCRIPTION, metadata=replace(DESCRIPTION.metadata, score_thresholds=()))


@pytest.mark.parametrize("text", [None, "", "{", "[" * 100_000])
def test_files_of_other_programs_are_rejected(text, tmp_path):
    with pytest.raises(ValueError, match=r"a\.onnx has no description .* that maskrcnn export wrote"):
        read_description(text, tmp_path / "a.onnx")


# As the first version wrote it: flat and without a number.
OLD = {
    "recipe": "resnet18_fpn",
    "class_names": ["cat"],
    "category_ids": [3],
    "size_hw": None,
    "least_side": 96,
}


@pytest.mark.parametrize("text", ["[1]", "7", json.dumps(OLD), changed(format=FORMAT + 1), changed(format=2)])
def test_files_of_another_version_must_be_exported_again(text, tmp_path):
    with pytest.raises(ValueError, match=r"a\.onnx was written by another version .*: export it again"):
        read_description(text, tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (changed(more=1), "should hold recipe, metadata"),
        (changed(input__stride="32"), "input.stride must be a whole number, not '32'"),
        (changed(input__stride=True), "input.stride must be a whole number, not True"),
        (changed(input__stride=0), "input.stride must be at least 1, not 0"),
        (changed(input__size_hw=[1, 2, 3]), "input.size_hw must be"),
        (changed(input__size_hw=[64, 0]), "input.size_hw must be at least 1"),
        (changed(input__mean=[10**400]), "input.mean must be"),
        (changed(metadata__class_names=["a", 2]), "metadata.class_names must be"),
        (changed(metadata__class_names=["a"]), "as many category ids as class names, not 2 for 1"),
        (
            changed(
                **{f"metadata__{name}": [] for name in ("class_names", "category_ids", "score_thresholds")}
            ),
            "at least one class",
        ),
        (changed(metadata=None), "metadata must be"),
        (changed(metadata=None, format=3), "metadata must be"),
        (changed(metadata__score_thresholds=[0.5]), "as many score thresholds as class names, not 1 for 2"),
        (changed(metadata__score_thresholds=[0.5, 1.5]), "score thresholds must be from 0 to 1"),
    ],
)
def test_damaged_descriptions_are_rejected(text, sentence, tmp_path):
    with pytest.raises(
        ValueError, match=f"description in .*a.onnx is damaged: .*{sentence}.*export it again"
    ):
        read_description(text, tmp_path / "a.onnx")


def test_deeply_nested_values_are_rejected(tmp_path):
    for depth in (100, 300, 900, 3000):
        text = changed(long_side=1).replace('"long_side": 1', '"long_side": ' + "[" * depth + "]" * depth)
        with pytest.raises(ValueError, match=r"a\.onnx"):
            read_description(text, tmp_path / "a.onnx")

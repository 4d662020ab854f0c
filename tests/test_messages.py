"""Suggestions for names that are not known."""

import pytest

from maskrcnn.extras import import_extra
from maskrcnn.messages import nearest


def test_a_likely_name_is_asked_for_and_others_are_listed():
    known = [f"recipe{n}" for n in range(10)]
    assert nearest("recip3", known) == "did you mean recipe3?"
    assert nearest("zzz", known[:2]) == "there are recipe0, recipe1"
    assert nearest("zzz", known).endswith("recipe7 and 2 more")


def test_an_extra_that_is_not_installed_is_named_with_its_command():
    assert import_extra("json", "onnx").loads("1") == 1
    with pytest.raises(
        ValueError, match=r"no_such_module cannot be imported \(.*\): pip install 'maskrcnn\[onnx\]'"
    ):
        import_extra("no_such_module", "onnx")

import pytest

from maskrcnn.messages import Faults, all_faults, counted, first_few, nearest


def test_a_likely_name_is_asked_for_and_others_are_listed():
    known = [f"recipe{n}" for n in range(10)]
    assert nearest("recip3", known) == "did you mean recipe3?"
    assert nearest("zzz", known[:2]) == "there are recipe0, recipe1"
    assert nearest("zzz", known).endswith("recipe7 and 2 more")


def test_a_long_list_is_cut_and_counted():
    assert first_few([1, 2, 3]) == "1, 2, 3"
    assert first_few(list(range(7)), 5) == "0, 1, 2, 3, 4 and 2 more"
    assert first_few([]) == ""


def test_nouns_agree_with_their_numbers():
    assert [counted(n, "picture") for n in (0, 1, 2000)] == ["0 pictures", "1 picture", "2,000 pictures"]
    assert [counted(n, "class") for n in (1, 2)] == ["1 class", "2 classes"]


def collect(*errors):
    with all_faults() as attempt:
        for error in errors:
            with attempt():
                raise error


def test_all_mistakes_come_at_once_and_one_alone_stays_what_it_is():
    collect()
    with pytest.raises(FileNotFoundError, match=r"^a$"):
        collect(FileNotFoundError("a"))
    with pytest.raises(Faults) as caught:
        collect(ValueError("a"), FileNotFoundError("b"), Faults(["c", "a"]))
    assert caught.value.sentences == ("a", "b", "c") and str(caught.value) == "3 faults:\n  a\n  b\n  c"


def test_what_is_no_mistake_ends_at_once():
    with pytest.raises(KeyError, match="b"):
        collect(ValueError("a"), KeyError("b"), ValueError("c"))

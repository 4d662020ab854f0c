from maskrcnn.messages import first_few, nearest


def test_a_likely_name_is_asked_for_and_others_are_listed():
    known = [f"recipe{n}" for n in range(10)]
    assert nearest("recip3", known) == "did you mean recipe3?"
    assert nearest("zzz", known[:2]) == "there are recipe0, recipe1"
    assert nearest("zzz", known).endswith("recipe7 and 2 more")


def test_a_long_list_is_cut_and_counted():
    assert first_few([1, 2, 3]) == "1, 2, 3"
    assert first_few(list(range(7)), 5) == "0, 1, 2, 3, 4 and 2 more"
    assert first_few([]) == ""

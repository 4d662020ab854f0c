"""Where anchors stand, by hand."""

from maskrcnn.network.rpn import Anchors


def test_anchors_stand_at_the_centres_of_cells_or_at_their_corners():
    anchors = Anchors(((8.0,),), (1.0,), (4,))
    centres = anchors.grid(0, (1, 2), (4, 8), anchors.shapes()[0])
    assert centres.tolist() == [[-2, -2, 6, 6], [2, -2, 10, 6]]
    corners = anchors._replace(offset=0.0).grid(0, (1, 2), (4, 8), anchors.shapes()[0])
    assert corners.tolist() == [[-4, -4, 4, 4], [0, -4, 8, 4]]


def test_a_ratio_is_height_by_width_at_equal_area():
    anchors = Anchors(((10.0,),), (0.25, 4.0), (4,), offset=0.0)
    cell = anchors.grid(0, (1, 1), (4, 4), anchors.shapes()[0])
    assert cell.tolist() == [[-10, -2.5, 10, 2.5], [-2.5, -10, 2.5, 10]]


def test_rounded_anchors_have_whole_corners_and_steps():
    anchors = Anchors(((9.0,),), (1.0,), (64,), offset=0.0, rounded=True)
    # 800 px on 13 cells: steps of 61, not 64; half of 9 is rounded to even
    assert anchors.grid(0, (13, 1), (800, 64), anchors.shapes()[0])[1].tolist() == [-4, 57, 4, 65]

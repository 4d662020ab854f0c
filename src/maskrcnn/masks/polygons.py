"""Masks as polygons."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float


def polygons(
    crop: Bool[np.ndarray, "h w"], origin_xy: tuple[int, int] = (0, 0)
) -> list[Float[np.ndarray, "n 2"]]:
    """Return the outlines of a mask along the edges of its pixels: closed rings of x, y corners, integers.

    `origin_xy` is the corner of the first pixel of `crop`. Filling all rings by the even-odd rule gives the
    mask exactly; holes are rings like the others. Pixels that touch only at a corner are not joined there.

    Only corners are searched: along any row of the pixel grid they are, in order, the two ends of one edge
    after another, and likewise along any column. Following a row, then a column, and so on, traverses a ring.
    """
    padded = np.pad(crop, 1)
    upper_left, upper_right = padded[:-1, :-1], padded[:-1, 1:]
    lower_left, lower_right = padded[1:, :-1], padded[1:, 1:]
    odd = upper_left ^ upper_right ^ lower_left ^ lower_right  # 1 or 3 of the 4 pixels around a grid point
    crossing = (upper_left == lower_right) & (upper_right == lower_left) & (upper_left != upper_right)
    corners = np.argwhere(odd | crossing)  # row by row
    copies = np.repeat(corners, 1 + crossing[tuple(corners.T)], axis=0)  # two rings meet at a crossing
    y, x = copies.T
    second = np.r_[False, (copies[1:] == copies[:-1]).all(1)]
    # At a crossing the first copy ends the left edge; it turns up around an upper left pixel, else down.
    below = np.where(upper_left[y, x], second, ~second)
    in_columns = np.lexsort((below, y, x))
    along_row = np.arange(len(copies)) ^ 1
    along_column = np.empty_like(in_columns)
    along_column[in_columns] = in_columns[np.arange(len(copies)) ^ 1]
    rings = _cycles(along_row.tolist(), along_column.tolist())
    points = np.stack([x, y], 1) + np.array(origin_xy, float)
    return [points[ring] for ring in rings]


def _cycles(along_row: list[int], along_column: list[int]) -> list[list[int]]:
    """Return the cycles of following `along_row`, then `along_column`, and so on, as lists of corners."""
    rings, visited = [], [False] * len(along_row)
    for start in range(len(along_row)):
        ring, corner = [], start
        while not visited[corner]:
            following = along_row[corner]
            visited[corner] = visited[following] = True
            ring += [corner, following]
            corner = along_column[following]
        if ring:
            rings.append(ring)
    return rings

"""Maps on another grid: against a slow loop, across the seam and the poles."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sal360.density import nearest_index, resize_map
from sal360.sphere import erp_directions


def slow_resize(values, height, width, spherical):
    h, w = values.shape

    def pixel(row, column):
        if not spherical:
            return values[min(max(row, 0), h - 1), min(max(column, 0), w - 1)]
        if row < 0 or row >= h:  # beyond a pole: half a turn away
            row = -1 - row if row < 0 else 2 * h - 1 - row
            if w % 2:
                return (values[row, (column - w // 2) % w] + values[row, (column - w // 2 - 1) % w]) / 2
            column += w // 2
        return values[row, column % w]

    out = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            y, x = (i + 0.5) * h / height - 0.5, (j + 0.5) * w / width - 0.5
            r, c = math.floor(y), math.floor(x)
            top = pixel(r, c) * (1 - x + c) + pixel(r, c + 1) * (x - c)
            bottom = pixel(r + 1, c) * (1 - x + c) + pixel(r + 1, c + 1) * (x - c)
            out[i, j] = top * (1 - y + r) + bottom * (y - r)
    return out


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("size", [(5, 10), (5, 9), (8, 16)])
@pytest.mark.parametrize("new_size", [(12, 20), (3, 7), (5, 16)])
def test_resize_agrees_with_a_slow_loop(size, new_size, spherical):
    values = np.random.default_rng(1).random(size)
    expected = slow_resize(values, *new_size, spherical)
    np.testing.assert_allclose(resize_map(values, *new_size, spherical=spherical), expected, atol=1e-12)


def test_a_smooth_function_of_direction_stays_itself_at_the_seam_and_the_poles():
    coarse = resize_map(erp_directions(90, 180) @ [0.3, 0.5, 0.8], 360, 720)
    np.testing.assert_allclose(coarse, erp_directions(360, 720) @ [0.3, 0.5, 0.8], atol=2e-3)


def test_nearest_index_takes_the_pixel_around_each_new_centre():
    assert nearest_index(2, 4).tolist() == [0, 0, 1, 1]
    assert nearest_index(4, 2).tolist() == [1, 3]
    assert nearest_index(3, 3).tolist() == [0, 1, 2]

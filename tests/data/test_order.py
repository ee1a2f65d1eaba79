import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.order import Order, Permutation


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_permutation_is_a_bijection(size: int, key: int) -> None:
    images = Permutation(size, key)(np.arange(size))
    assert np.array_equal(np.sort(images), np.arange(size))


def test_permutation_of_an_enormous_range_stays_inside_and_apart() -> None:
    size = 10**15 + 37
    images = Permutation(size, 3)(np.arange(10_000) + size - 10_000)
    assert images.min() >= 0
    assert images.max() < size
    assert len(np.unique(images)) == 10_000


def test_every_cell_of_position_by_image_is_equally_likely() -> None:
    """Chi-squared over a 16 x 16 table: mean 225 (degrees of freedom), standard deviation 21."""
    size = 1 << 16
    table = np.zeros((16, 16))
    np.add.at(table, (np.arange(size) // 4096, Permutation(size, 5)(np.arange(size)) // 4096), 1)
    assert ((table - 256) ** 2 / 256).sum() < 225 + 5 * 21


def test_neighbours_do_not_stay_together() -> None:
    images = Permutation(50_000, 11)(np.arange(50_000))
    assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 0.02
    assert np.mean(np.abs(np.diff(images))) == pytest.approx(50_000 / 3, rel=0.02)


def test_every_epoch_is_another_permutation_of_all_samples() -> None:
    order = Order(100, seed=0, fingerprint="f")
    epochs = order(np.arange(300)).reshape(3, 100)
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
def test_order_is_a_function_of_the_position_alone(positions: list[int]) -> None:
    order = Order(777, seed=4, fingerprint="f")
    together = order(np.array(positions))
    assert together.tolist() == [int(order(np.array([position]))[0]) for position in positions]


def test_seed_and_data_decide_the_order() -> None:
    positions = np.arange(50)
    orders = [Order(50, 0, "f"), Order(50, 1, "f"), Order(50, 0, "g")]
    assert len({tuple(order(positions).tolist()) for order in orders}) == 3

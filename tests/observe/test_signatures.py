import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cahp_plugin.observe.classes import classes_of
from cahp_plugin.observe.conditioning import LABEL
from cahp_plugin.observe.signatures import ClassMoments, batch_operator, resize_maps, resize_operator


@pytest.mark.parametrize(("size", "length"), [(2, 1), (4, 4), (5, 3), (3, 5), (32, 19), (7, 100)])
def test_operator_equals_interpolate(size, length):
    square = torch.rand(length, length, dtype=torch.float64, generator=torch.Generator().manual_seed(length))
    expected = torch.nn.functional.interpolate(square[None, None], size=(size, size), mode="bilinear")[0, 0]
    operator = resize_operator(size, length)
    torch.testing.assert_close(operator @ square @ operator.T, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(operator.sum(dim=1), torch.ones(size, dtype=torch.float64))


def test_operator_halves_by_averaging():
    # Two cells for four tokens: the centres 0.5 and 2.5 fall between two tokens each.
    expected = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(resize_operator(2, 4), expected)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    side=st.sampled_from(["left", "right"]),
    size=st.integers(2, 6),
    heads=st.integers(1, 3),
    seed=st.integers(0, 100),
)
@settings(max_examples=40, deadline=None)
def test_padded_batch_is_cropped_and_resized(lengths, side, size, heads, seed):
    width = max(lengths) + 1
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(len(lengths), heads, width, width, generator=generator, dtype=torch.float64)
    mask = torch.zeros(len(lengths), width)
    for row, length in enumerate(lengths):
        mask[row, (slice(0, length) if side == "right" else slice(width - length, width))] = 1
    resized = resize_maps(maps, *[batch_operator(mask, size, torch.float64)] * 2)
    for row in range(len(lengths)):
        real = mask[row].nonzero().flatten()
        for head in range(heads):
            cropped = maps[row, head][real][:, real]
            expected = torch.nn.functional.interpolate(cropped[None, None], size=(size, size), mode="bilinear")[0, 0]
            torch.testing.assert_close(resized[row, :, head], expected, rtol=0, atol=1e-13)


def test_queries_and_keys_of_their_own_are_cropped_and_resized():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 3, 5, 9, generator=generator, dtype=torch.float64)
    queries = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    keys = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1, 1, 1]])
    operators = (batch_operator(mask, 4, torch.float64) for mask in (queries, keys))
    resized = resize_maps(maps, *operators)
    for row in range(2):
        for head in range(3):
            cropped = maps[row, head][queries[row].bool()][:, keys[row].bool()]
            expected = torch.nn.functional.interpolate(cropped[None, None], size=(4, 4), mode="bilinear")[0, 0]
            torch.testing.assert_close(resized[row, :, head], expected, rtol=0, atol=1e-13)


def members_of(labels, classes):
    return classes_of(LABEL).members(labels, classes)


def moments_of(values, labels, parts, classes=None):
    """Moments from batches of these rows; ``None`` knows of no class but those of each batch."""
    moments = ClassMoments()
    for rows in parts:
        known = labels[rows].unique().tolist() if classes is None else classes
        moments.add(0, values[rows].clone(), members_of(labels[rows], known), known)
    return moments


def test_classes_that_come_later_get_room():
    values = torch.rand(12, 2, 2, 2, generator=torch.Generator().manual_seed(3))
    labels = torch.tensor([0, 0, 0, 1, 1, 0, 2, 1, 2, 0, 2, 2])
    parts = torch.arange(12).split(3)
    growing, known = moments_of(values, labels, parts), moments_of(values, labels, parts, [0, 1, 2])
    assert growing.counts() == known.counts() == {0: 5, 1: 3, 2: 4}
    torch.testing.assert_close(growing.finish([0, 1, 2]), known.finish([0, 1, 2]))
    torch.testing.assert_close(growing.finish([2, 0])[0], known.finish([0, 1, 2])[0][[2, 0]])


def test_examples_of_other_classes_are_left_out():
    values = torch.rand(6, 2, 2, 2, generator=torch.Generator().manual_seed(3))
    labels = torch.tensor([0, 7, 0, 2, 7, 2])
    found = moments_of(values, labels, [torch.arange(6)], [0, 2])
    assert found.counts() == {0: 2, 2: 2}
    expected = values[labels == 2].double().numpy().transpose(0, 2, 1, 3).reshape(2, 2, 4)
    np.testing.assert_allclose(found.finish([2])[0][0], expected.mean(axis=0), rtol=1e-6)


def test_a_class_of_one_example_has_no_variance():
    values = torch.rand(3, 2, 1, 2, generator=torch.Generator().manual_seed(3))
    mean, variance = moments_of(values, torch.tensor([0, 1, 0]), [torch.arange(3)], [0, 1]).finish([0, 1])
    assert mean.isfinite().all() and variance[0].isfinite().all() and variance[1].isnan().all()


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_moments_equal_numpy_for_any_batch_size(batch_size):
    generator = torch.Generator().manual_seed(0)
    # A large mean with a small spread: sums of squares without a reference would lose every digit of the variance.
    values = 0.99 + 1e-4 * torch.rand(50, 2, 3, 2, generator=generator)
    labels = torch.arange(50) % 2
    mean, variance = moments_of(values, labels, torch.arange(50).split(batch_size), [0, 1]).finish([0, 1])
    assert mean.shape == (2, 3, 4)
    for label in (0, 1):
        chosen = values[labels == label].double().numpy().transpose(0, 2, 1, 3).reshape(-1, 3, 4)
        np.testing.assert_allclose(mean[label], chosen.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(variance[label], chosen.var(axis=0, ddof=1), rtol=1e-5)


def test_moments_do_not_depend_on_the_order():
    values = torch.rand(40, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(40) % 4
    shuffled = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    one, other = (
        moments_of(values, labels, order.split(7), range(4)).finish(range(4)) for order in (torch.arange(40), shuffled)
    )
    torch.testing.assert_close(one[0], other[0], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(one[1], other[1], rtol=1e-5, atol=1e-8)

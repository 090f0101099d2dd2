import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
    resized = resize_maps(maps, batch_operator(mask, size, torch.float64))
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


def test_classes_that_come_later_get_room():
    values = torch.rand(12, 2, 2, 2, generator=torch.Generator().manual_seed(3))
    labels = torch.tensor([0, 0, 0, 1, 1, 0, 2, 1, 2, 0, 2, 2])
    growing, known = ClassMoments(0), ClassMoments(3)
    for rows in torch.arange(12).split(3):
        one_hot = (labels[rows][None] == torch.arange(3)[:, None]).float()
        known.update(0, values[rows].clone(), one_hot)
        seen = int(labels[: rows[-1] + 1].max()) + 1
        growing.grow(seen)
        growing.update(0, values[rows].clone(), one_hot[:seen])
    assert growing.counts.tolist() == [5, 3, 4]
    torch.testing.assert_close(growing.finish(), known.finish())
    torch.testing.assert_close(growing.finish([2, 0])[0], known.finish()[0][[2, 0]])


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_moments_equal_numpy_for_any_batch_size(batch_size):
    generator = torch.Generator().manual_seed(0)
    # A large mean with a small spread: sums of squares without a reference would lose every digit of the variance.
    values = 0.99 + 1e-4 * torch.rand(50, 2, 3, 2, generator=generator)
    labels = torch.arange(50) % 2
    moments = ClassMoments(2)
    for start in range(0, 50, batch_size):
        part = labels[start : start + batch_size]
        one_hot = torch.stack([part == 0, part == 1]).float()
        moments.update(0, values[start : start + batch_size].clone(), one_hot)
    mean, variance = moments.finish()
    assert mean.shape == (2, 3, 4)
    for label in (0, 1):
        chosen = values[labels == label].double().numpy().transpose(0, 2, 1, 3).reshape(-1, 3, 4)
        np.testing.assert_allclose(mean[label], chosen.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(variance[label], chosen.var(axis=0, ddof=1), rtol=1e-5)


def test_moments_do_not_depend_on_the_order():
    values = torch.rand(40, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(40) % 4
    results = []
    for order in (torch.arange(40), torch.randperm(40, generator=torch.Generator().manual_seed(2))):
        moments = ClassMoments(4)
        for rows in order.split(7):
            one_hot = (labels[rows][None] == torch.arange(4)[:, None]).float()
            moments.update(0, values[rows].clone(), one_hot)
        results.append(moments.finish())
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-8)

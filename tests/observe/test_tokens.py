import pytest
import torch

from cahp_plugin.observe.tokens import spread_queries


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(None, [1, 2, 3, 5, 6, 7, 8]), (7, [1, 2, 3, 5, 6, 7, 8]), (9, [1, 2, 3, 5, 6, 7, 8]), (1, [5]), (2, [2, 7])],
)
def test_queries_are_spread_over_the_real_tokens(wanted, expected):
    mask = torch.tensor([0, 1, 1, 1, 0, 1, 1, 1, 1, 0], dtype=torch.bool)
    assert spread_queries(mask, wanted).tolist() == expected


@pytest.mark.parametrize("count", [2, 63, 64, 65, 2048])
def test_there_are_as_many_as_asked_for_and_none_twice(count):
    found = spread_queries(torch.ones(count, dtype=torch.bool), 64)
    assert len(found.unique()) == len(found) == min(count, 64)
    if count > 64:
        gaps = found.diff()
        assert gaps.max() - gaps.min() <= 1 and found[0] + found[-1] in (count - 1, count)

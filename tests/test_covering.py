"""Which cases of a test run first."""

from __future__ import annotations

from itertools import product

import pytest
from covering import covering, first_cases


def test_every_value_of_two_lists_is_covered() -> None:
    cases = list(product("abc", range(5)))
    kept = [cases[place] for place in covering(cases)]
    assert kept == [("a", 0), ("a", 3), ("a", 4), ("b", 1), ("c", 2)]


def test_every_pair_of_values_of_more_lists_is_covered() -> None:
    assert covering(list(product("ab", "cd", "ef"))) == [0, 3, 5, 6]


@pytest.mark.parametrize("cases", [[()], [(0,), (1,), (2,)], [(0, 0), (1, 1)]])
def test_what_is_no_product_is_kept(cases: list[tuple[int, ...]]) -> None:
    assert covering(cases) == list(range(len(cases)))


SUITE = """
import pytest

@pytest.mark.parametrize("a", range(3))
@pytest.mark.parametrize(("b", "c"), [(0, 1), (0, 2), (1, 2)])
def test_product(a, b, c): ...

@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("a", range(4))
def test_some(a): ...

@pytest.mark.exhaustive
@pytest.mark.parametrize(argnames="a", argvalues=range(2))
def test_none(a): ...

@pytest.mark.parametrize(argnames="a", argvalues=range(2))
def test_by_keyword(a): ...

def test_single(): ...
"""

pytest_plugins = ["pytester"]


def test_of_a_suite(pytester: pytest.Pytester) -> None:
    """Arguments that are set together count as one."""
    pytester.makeini("[pytest]\nmarkers = exhaustive: not first")
    items, _ = pytester.inline_genitems(pytester.makepyfile(SUITE))
    first = first_cases(items)
    assert [item.name for item in items if item in first] == [
        "test_product[0-1-0]",
        "test_product[0-2-1]",
        "test_product[1-2-2]",
        "test_some[0]",
        "test_some[2]",
        "test_by_keyword[0]",
        "test_by_keyword[1]",
        "test_single",
    ]


@pytest.mark.parametrize("wrong", ["3", "most=3"])
def test_a_mark_that_says_something_else_is_an_error(pytester: pytest.Pytester, wrong: str) -> None:
    pytester.makeini("[pytest]\nmarkers = exhaustive: not first")
    test = f"import pytest\n@pytest.mark.exhaustive({wrong})\ndef test_it(): ..."
    items, _ = pytester.inline_genitems(pytester.makepyfile(test))
    with pytest.raises(pytest.UsageError, match=r"test_it: exhaustive takes keep=N, not .*3"):
        first_cases(items)

"""Which tests run first: of tests with many cases, a few that cover every value.

A test whose cases combine two lists of values runs with every value; one of three or more lists,
with every pair of values. Its other combinations are the rest, and what is marked: all cases of a
test with ``exhaustive``, all but N of them, evenly spread, with ``exhaustive(keep=N)``. ``--cases
rest`` runs the rest, ``--cases first`` all others; without the option, all tests run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations

import pytest

Case = tuple[Hashable, ...]  # the value from each list of values


def parts_of(case: Case) -> set[Case]:
    """What a case covers: its values or, if they come from three or more lists, pairs of them."""
    return set(combinations(enumerate(case), 2 if len(case) > 2 else 1))


def covering(cases: Sequence[Case]) -> list[int]:
    """Places of cases that cover together what all do: each adds the most; the first of equals."""
    parts = [parts_of(case) for case in cases]
    missing: set[Case] = set().union(*parts)
    kept, left = [], list(range(len(parts)))
    while missing:
        best = max(left, key=lambda place: len(parts[place] & missing))
        missing -= parts[best]
        kept.append(best)
        left = [place for place in left if parts[place] & missing]
    return sorted(kept) or [0]


def first_cases(items: Iterable[pytest.Item]) -> set[pytest.Item]:
    """The tests that run first."""
    families: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if kept_of(item) != 0:
            families[item.nodeid.partition("[")[0]].append(item)
    return {item for family in families.values() for item in first_of(family)}


def first_of(family: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The cases of one test function that run first."""
    kept = [family[place] for place in covering([arguments(item) for item in family])]
    most = min(kept_of(family[0]) or len(kept), len(kept))
    return [kept[number * len(kept) // most] for number in range(most)]


def kept_of(item: pytest.Item) -> int | None:
    """How many cases of the test its mark keeps; None without a mark."""
    mark = item.get_closest_marker("exhaustive")
    if mark is None:
        return None
    if mark.args or set(mark.kwargs) - {"keep"}:
        raise pytest.UsageError(
            f"{item.nodeid}: exhaustive takes keep=N, not {mark.args or mark.kwargs}"
        )
    return mark.kwargs.get("keep", 0)


def arguments(item: pytest.Item) -> Case:
    """What a case has of each list of values; same objects stand for same values."""
    found = getattr(item, "callspec", None)
    if found is None:
        return ()
    lists = [names_of(mark) for mark in item.iter_markers("parametrize")]
    fixtures = set(found.params).difference(*lists)
    lists += [[name] for name in found.params if name in fixtures]
    return tuple(tuple(id(found.params[name]) for name in names) for names in lists)


def names_of(parametrize: pytest.Mark) -> list[str]:
    names = parametrize.kwargs.get("argnames") or parametrize.args[0]
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)

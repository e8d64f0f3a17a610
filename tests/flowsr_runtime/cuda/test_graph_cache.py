"""Graphs are kept up to a number; the least recently used goes, and is destroyed."""

from typing import Any

from flowsr_runtime.cuda.graph_cache import _KEYS_PER_GRAPH, Captured, GraphCache, GraphCounters


class Graph:
    """A graph that knows whether it was destroyed."""

    closed = False

    def close(self) -> None:
        self.closed = True


def captured() -> Captured:
    return Captured(Graph(), object(), {"output": (1, 3, 8, 8)})


def filled(limit: int, keys: str) -> tuple[GraphCache, dict[str, Captured]]:
    cache, made = GraphCache(limit), {key: captured() for key in keys}
    for key, each in made.items():
        cache.put(key, each)
    return cache, made


def test_a_graph_is_due_when_its_key_comes_again() -> None:
    cache = GraphCache(2)
    assert [cache.is_due(key) for key in "abab"] == [False, False, True, True]


def test_without_graphs_nothing_is_due() -> None:
    cache = GraphCache(0)
    assert [cache.is_due("a") for _ in range(3)] == [False] * 3


def test_keys_that_never_come_again_are_forgotten() -> None:
    cache = GraphCache(2)
    assert not cache.is_due("first")
    assert not any(cache.is_due(key) for key in range(2 * _KEYS_PER_GRAPH))
    assert not cache.is_due("first")


def test_what_was_put_is_got_and_counted() -> None:
    cache, made = filled(2, "ab")
    assert cache.get("a") is made["a"]
    assert cache.get("c") is None
    assert cache.counters == GraphCounters(hits=1, captures=2)


def test_the_least_recently_used_makes_room() -> None:
    cache, made = filled(2, "ab")
    cache.get("a")
    cache.put("c", captured())
    assert [made[key].graph.closed for key in "ab"] == [False, True]
    assert made["b"].context is None
    assert (len(cache), cache.counters.evictions) == (2, 1)


def test_clearing_destroys_every_graph() -> None:
    cache, made = filled(2, "ab")
    cache.clear()
    assert all(each.graph.closed for each in made.values())
    assert (len(cache), cache.counters.evictions) == (0, 2)


def test_counters_add_up() -> None:
    total: Any = sum(
        [GraphCounters(1, 2, 3, 4), GraphCounters(10, 20, 30, 40)], GraphCounters()
    )
    assert total == GraphCounters(11, 22, 33, 44)

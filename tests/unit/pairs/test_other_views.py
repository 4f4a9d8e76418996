"""The views `name` and `class` in the languages whose documentation is a comment above."""

from __future__ import annotations

from collections import Counter

import pytest

from pipeline_lib.config.data import CodePairsConfig
from pipeline_lib.languages import rules_of
from pipeline_lib.languages.doc_comments import tagged_prose
from pipeline_lib.languages.go import go_prose
from pipeline_lib.pairs.code_pairs import CodePair, code_pairs
from pipeline_lib.pairs.definitions import find_definitions

DOC = "Keeps the running total of all orders of a day."
SOURCES = {
    "javascript": f"""/** {DOC} */
class OrderTotal {{
  addOrder(order) {{
    // prices are in cents
    const price = order.price * order.count;
    this.total += price;
    return this.total;
  }}
}}
""",
    "java": f"""/** {DOC} */
public class OrderTotal {{
    long addOrder(Order order) {{
        // prices are in cents
        long price = order.price * order.count;
        total += price;
        return total;
    }}
}}
""",
    "php": f"""<?php
/** {DOC} */
class OrderTotal {{
    function addOrder($order) {{
        // prices are in cents
        $price = $order->price * $order->count;
        $this->total += $price;
        return $this->total;
    }}
}}
""",
    "ruby": f"""# {DOC}
class OrderTotal
  def add_order(order)
    # prices are in cents
    price = order.price * order.count
    @total += price
    return @total
  end
end
""",
    "go": f"""package orders

// {DOC}
type OrderTotal struct {{
    total int
    count int
}}

func (sum *OrderTotal) AddOrder(order Order) int {{
    // prices are in cents
    price := order.Price * order.Count
    sum.total += price
    return sum.total
}}
""",
}


def pairs_of(language: str, view: str) -> list[CodePair]:
    rules, data = rules_of(language), SOURCES[language].encode()
    config = CodePairsConfig(views=(view,), languages=(language,))  # type: ignore[arg-type]
    return list(code_pairs(find_definitions(data, rules, "orders"), data, config, rules, Counter()))


@pytest.mark.parametrize("language", sorted(SOURCES))
def test_the_view_name_says_what_a_function_is_called_and_hides_it_in_the_code(language: str) -> None:
    (pair,) = pairs_of(language, "name")
    assert pair.x.startswith("order total add order") or (language == "go" and "add order" in pair.x)
    assert "prices are in cents" in pair.x and "prices are in cents" not in pair.y
    assert "ddOrder" not in pair.y and "add_order" not in pair.y
    assert "price" in pair.y and "return" in pair.y


@pytest.mark.parametrize("language", sorted(SOURCES.keys() - {"go"}))  # Go's types hold no functions
def test_the_view_class_pairs_its_comment_with_its_source_without_bodies(language: str) -> None:
    (pair,) = pairs_of(language, "class")
    assert pair.x == DOC and pair.name.endswith("OrderTotal")
    assert "class OrderTotal" in pair.y and "rder(" in pair.y
    assert DOC not in pair.y and "return" not in pair.y


def test_an_index_is_no_link() -> None:
    assert go_prose(["// Deletes m[key], see [Map] and [Map.Get]."]) == "Deletes m[key], see Map and Map.Get."


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ("{@link #of(int, Object[])}", "of(int, Object[])"),
        ("{@link List#of(int, int) two of them}", "two of them"),
        ("{@link Map}", "Map"),
        ("{@link Map the map}", "the map"),
        ("{@link Map|the map}", "the map"),
    ],
)
def test_a_link_to_a_method_with_parameters_keeps_them_together(tag: str, words: str) -> None:
    assert tagged_prose([f"/** Sorts {tag} in place. */"]) == f"Sorts {words} in place."

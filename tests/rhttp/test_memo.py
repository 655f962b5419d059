"""What is remembered within a bound."""

from __future__ import annotations

from rhttp.memo import Memo


def test_memo_with_room_keeps_all_and_one_more_forgets_them() -> None:
    """At n entries nothing is lost; number n + 1 is alone."""
    memo: Memo[int, str] = Memo(3)
    for number in range(3):
        assert memo.remember(number, str(number)) == str(number)
    assert memo == {0: "0", 1: "1", 2: "2"}
    memo.remember(3, "3")
    assert memo == {3: "3"}
    assert memo.get(0) is None

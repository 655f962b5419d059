"""What data processes tell each other, and how soon."""

from __future__ import annotations

import json

import pytest

from gateway.cluster.directory import News, PeerDirectory
from gateway.pools.slots import Pool


class Teller:
    """News of one pool, of whose sums others heard last that of four slots three are free."""

    def __init__(self) -> None:
        self.due: list[bool] = []
        self.news = News(PeerDirectory(), self.due.append)
        self.pool = Pool("render", queue=8)
        self.happens(total=4, free=3)
        self.tells()
        self.due.clear()

    def happens(self, *, total: int = 4, free: int) -> None:
        self.pool.total, self.pool.free = total, free
        self.news.pool(self.pool)

    def tells(self) -> object:
        return json.loads(self.news.take())["pools"]


def test_first_news_of_a_pool_presses() -> None:
    """Nobody knows of it yet."""
    due: list[bool] = []
    News(PeerDirectory(), due.append).pool(Pool("render", queue=8))
    assert due == [True]


def test_news_that_some_more_or_fewer_slots_are_free_waits_and_tells_the_last_number() -> None:
    """A busy pool says so for every request, and nobody acts on it."""
    teller = Teller()
    for free in (2, 1, 2, 4, 2):
        teller.happens(free=free)
    assert teller.due == [False]
    assert teller.tells() == {"render": [4, 2, 0]}
    teller.happens(free=3)
    assert teller.due == [False, False]


@pytest.mark.parametrize("happens", [{"free": 0}, {"total": 5, "free": 4}, {"total": 3, "free": 3}])
def test_news_that_others_act_on_press_also_when_others_wait_already(happens: dict[str, int]) -> None:
    """The last free slot is taken, or there is one more or fewer."""
    teller = Teller()
    teller.happens(free=2)
    teller.happens(**happens)
    teller.happens(**happens)
    assert teller.due == [False, True]


def test_news_that_a_slot_is_free_again_press() -> None:
    """Somebody may wait for it."""
    teller = Teller()
    teller.happens(free=0)
    assert teller.tells() == {"render": [4, 0, 0]}
    teller.happens(free=1)
    assert teller.due == [True, True]


def test_news_of_an_identity_press() -> None:
    """Limits of all processes together rest on it."""
    teller = Teller()
    teller.news.held("client/alice", 2)
    assert teller.due == [True]

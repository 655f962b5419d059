"""The registry of live connections: found by identity, cut for a reason, expired in time."""

from __future__ import annotations

from collections.abc import Callable

from auth.principal import Principal
from gateway.core.peer import CertifiedPeer, LocalPeer, Peer
from gateway.core.registry import Registry


class Connection:
    """Leaves the registry when it is cut, as real ones do."""

    def __init__(self, registry: Registry, peer: Peer) -> None:
        self.peer = peer
        self.reasons: list[str] = []
        self._registry = registry
        registry.add(self)

    def disconnect(self, reason: str) -> None:
        self.reasons.append(reason)
        self._registry.remove(self)


def client(name: str, *, serial: str = "01", expires: float = 1000.0) -> Peer:
    principal = Principal(kind="Client", name=name)
    return CertifiedPeer(
        principal=principal, serial=serial, fingerprint=b"f", issuer=b"i", expires=expires, source="127.0.0.1"
    )


def test_registry_counts_by_identity_and_role() -> None:
    """Every connection once, under whoever holds it; nothing is kept of identities that are gone."""
    registry = Registry()
    first, second = Connection(registry, client("alice")), Connection(registry, client("alice"))
    other = Connection(registry, client("bob"))
    local = Connection(registry, LocalPeer(None))
    assert (registry.held("client/alice"), registry.held("client/bob"), registry.held("client/carol")) == (2, 1, 0)
    assert registry.count == 4
    assert registry.by_role() == {"client": 3, "master": 1}
    assert set(registry) == {first, second, other, local}
    for live in (first, second, first):
        registry.remove(live)
    assert (registry.held("client/alice"), registry.count) == (0, 2)
    assert registry.by_role() == {"client": 1, "master": 1}


def by_name(**reasons: str) -> Callable[[Peer], str | None]:
    return lambda peer: reasons.get(peer.name)


def test_registry_cuts_whom_a_reason_is_found_for() -> None:
    """All of an identity's connections, each once, though they leave while they are cut; nobody else's."""
    registry = Registry()
    alice = [Connection(registry, client("alice")) for _ in range(5)]
    bob = Connection(registry, client("bob"))
    assert registry.cut_where(by_name(alice="revoked")) == 5
    assert all(live.reasons == ["revoked"] for live in alice)
    assert bob.reasons == []
    assert registry.cut_where(by_name(alice="revoked")) == 0


def test_registry_cuts_one_that_takes_another_along() -> None:
    """A relayed connection may end its neighbour: nobody is cut after it is gone."""
    registry = Registry()
    lives: list[Connection] = []

    class Pair(Connection):
        def disconnect(self, reason: str) -> None:
            for live in tuple(lives):
                live.reasons.append(reason)
                registry.remove(live)

    lives += [Pair(registry, client("alice")), Pair(registry, client("alice"))]
    registry.cut_where(by_name(alice="revoked"))
    assert registry.count == 0


def test_registry_cuts_the_expired_when_their_time_is_there() -> None:
    """Not a moment before, at the moment itself, and each once."""
    registry = Registry()
    soon, later = Connection(registry, client("a", expires=1000.0)), Connection(registry, client("b", expires=2000.0))
    forever = Connection(registry, LocalPeer(None))
    assert registry.cut_expired(999.9) == 0
    assert registry.cut_expired(1000.0) == 1
    assert soon.reasons == ["expired"]
    assert registry.cut_expired(1999.9) == 0
    sooner = Connection(registry, client("c", expires=1500.0))
    assert registry.cut_expired(1600.0) == 1
    assert sooner.reasons == ["expired"]
    assert registry.cut_expired(3000.0) == 1
    assert later.reasons == ["expired"]
    assert registry.cut_expired(1e12) == 0
    assert forever.reasons == []


def test_registry_does_not_look_at_anybody_while_none_can_have_expired() -> None:
    """Once a second over many thousand connections: it must cost nothing."""
    registry = Registry()
    looked: list[Peer] = []

    class Watched(Connection):
        @property
        def peer(self) -> Peer:
            looked.append(self._peer)
            return self._peer

        @peer.setter
        def peer(self, value: Peer) -> None:
            self._peer = value

    Watched(registry, client("alice", expires=1000.0))
    looked.clear()
    assert registry.cut_expired(999.0) == 0
    assert looked == []

"""Proofs: each is made in one place only, says what was decided, and is of no use for anything else."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest
from support.bench import client_peer

from auth.policy import Allowed
from gateway.admission.request_record import Admitted
from gateway.core.peer import CertifiedPeer, LocalPeer

ROOT = Path(__file__).resolve().parents[3]
MADE_IN = {
    "Admitted": {"gateway/admission/checks.py": 3},
    "Allowed": {"auth/policy.py": 1},
    "Authenticated": {"auth/verifier.py": 1},
    "VerifiedPeer": {"pki/verify.py": 1},
    "CertifiedPeer": {"gateway/core/peer.py": 1},
    "LocalPeer": {"gateway/ingress/handlers.py": 1},
}


def made() -> dict[str, Counter[str]]:
    """Who calls the constructor of a proof, by file; a name behind a dot counts too."""
    found: dict[str, Counter[str]] = {name: Counter() for name in MADE_IN}
    for package in ("gateway", "auth", "pki", "rhttp"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                    if called in found:
                        found[called][str(path.relative_to(ROOT))] += 1
    return found


@pytest.mark.parametrize("proof", MADE_IN)
def test_proof_is_made_in_one_module_only(proof: str) -> None:
    """Whoever holds one knows that the check was made: nobody else can make it."""
    assert made()[proof] == MADE_IN[proof]


def test_proof_is_good_for_what_was_decided_and_for_nothing_else() -> None:
    """Another action, kind or name is refused by whoever acts on the proof."""
    proof = Admitted(None, Allowed(("p",)), ("dispatch", "Pool", "render"))
    proof.require(("dispatch", "Pool", "render"))
    for other in (("inspect", "Pool", "render"), ("dispatch", "Route", "render"), ("dispatch", "Pool", "other")):
        with pytest.raises(PermissionError):
            proof.require(other)  # type: ignore[arg-type]


def test_peer_without_a_certificate_is_a_kind_of_its_own() -> None:
    """What has a serial has a certificate, and a local peer has no serial that could be absent."""
    assert not hasattr(LocalPeer(None), "serial")
    assert not isinstance(LocalPeer(None), CertifiedPeer)
    assert client_peer().audit() == {"identity": "client/alice", "serial": "0a", "source": "192.0.2.1"}
    assert LocalPeer("127.0.0.1").audit() == {"identity": "master/local", "source": "127.0.0.1"}

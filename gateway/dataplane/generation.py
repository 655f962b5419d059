"""Making a generation: all that one configuration needs, built beside what runs, used only when all of it is right."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from auth.cedar import PolicyEngine
from auth.errors import PolicyInvalid
from auth.nonces import NonceIssuer, NonceKey, NonceLedger
from auth.sharedledger import SharedLedger
from auth.verifier import DigestVerifier
from gateway.config.limits import Limits
from gateway.config.values import Config, ConfigInvalid, TcpAddress, carry
from gateway.control.process_inputs import ProcessInputs
from gateway.core.context import ProcessContext
from gateway.core.peer import SeenPath
from gateway.enrolment.est import certs_only
from gateway.exchange.masters import MasterPool
from gateway.http.hosts import HostMatcher
from gateway.http.routes import RouteTable
from gateway.ingress.serving import Serving
from gateway.pools.hosted import HostedPool
from gateway.pools.relay import RelayPool
from gateway.pools.remote_slots import RemoteSlots
from pki.errors import PkiError
from pki.issue import serial_hex
from pki.names import PEER_ROLES, Role
from pki.trust import TrustStore
from pki.verify import PeerVerifier
from rhttp.http1.client import speak_http1
from rhttp.http1.limits import Http1Limits
from rhttp.message import METHODS, SAFE
from rhttp.tls.context import anonymous_context, server_context
from rhttp.tls.handshake import PresentedPath, Verify

_UNSAID: Final[Mapping[str, frozenset[bytes]]] = {"unsafe": SAFE, "all": frozenset(), "none": METHODS}


class Refusals(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """What is wrong with the inputs: (key path, message) each."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{path}: {message}" for path, message in problems))
        self.problems = list(problems)


class _Revoked:
    """The present snapshot's revocations, whichever it is when it is asked."""

    __slots__ = ("_process",)

    def __init__(self, process: ProcessContext) -> None:
        self._process = process

    def is_revoked(self, serial: int) -> bool:
        """Whether the serial is revoked."""
        revoked = self._process.snapshot.revoked
        return bool(revoked) and serial_hex(serial) in revoked


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestState:
    """What outlives every reload: the nonce key and the ledger of spent counters."""

    key: NonceKey
    ledger: NonceLedger | SharedLedger


def read_config(inputs: ProcessInputs) -> Config:
    """The configuration of the inputs.

    Raises:
        Refusals: with all that is wrong with it.
    """
    try:
        return inputs.config()
    except ConfigInvalid as error:
        raise Refusals([(problem.path, problem.message) for problem in error.problems]) from None


def make_digest_state(config: Config, inputs: ProcessInputs, shared: int | None = None) -> DigestState:
    """The parts that the first generation makes and every later one keeps.

    ``shared`` is the descriptor of the ledger of all processes; without it this process keeps its own.
    """
    digest = config.digest
    ledger: NonceLedger | SharedLedger
    if shared is not None:
        ledger = SharedLedger(shared)
    else:
        ledger = NonceLedger(digest.window, digest.nonces_per_identity, lifetime=digest.nonce_lifetime)
    return DigestState(key=NonceKey(inputs.nonce_key), ledger=ledger)


def load_policy(config: Config, inputs: ProcessInputs) -> PolicyEngine | Refusals:
    """The policy of the inputs, or all that is wrong with it. It touches nothing that is shared: any thread will do."""
    try:
        return PolicyEngine.load(
            inputs.policy_text, groups=config.groups, resources=config.resources(), file=config.policy.name
        )
    except PolicyInvalid as error:
        return Refusals([("policy", str(problem)) for problem in error.problems])


def build_generation(
    process: ProcessContext,
    config: Config,
    inputs: ProcessInputs,
    digest_state: DigestState,
    previous: Serving | None,
    *,
    engine: PolicyEngine | Refusals | None = None,
    join: Callable[[HostedPool], RemoteSlots] | None = None,
) -> Serving:
    """Everything for one configuration. Pools and masters that stay the same are the same objects as before.

    ``engine`` is what `load_policy` answered, when it was called before; ``join`` gives what a hosted pool has to do
    with other processes, when there are any.

    Raises:
        Refusals: with all that is wrong; nothing was changed.
    """
    problems: list[tuple[str, str]] = []
    peers = context = enroll_context = None
    issuers: frozenset[bytes] = frozenset()
    if engine is None:
        engine = load_policy(config, inputs)
    if isinstance(engine, Refusals):
        problems += engine.problems
    try:
        cas = {role: [inputs.trust[role.value]] for role in Role}
        trust = TrustStore.from_pem(inputs.trust["root"], cas, trust_domain=config.trust_domain)
        peers, issuers = PeerVerifier(trust), trust.issuers
    except (PkiError, KeyError) as error:
        problems.append(("certs", str(error)))
    if peers is not None:
        try:
            context = server_context(
                chain=inputs.server_cert,
                key=inputs.server_key,
                anchors=[inputs.trust["root"]],
                intermediates=[inputs.trust[role.value] for role in Role if role is not Role.SERVER],
                verify=_verify(process, peers, forward=config.client_cert_field),
            )
            if config.enroll.listen is not None:
                enroll_context = anonymous_context(chain=inputs.server_cert, key=inputs.server_key)
        except (ValueError, SSL.Error) as error:
            problems.append(("certs/server.pem", f"the server certificate cannot be used: {error}"))
    if isinstance(engine, Refusals) or problems or peers is None or context is None:
        raise Refusals(problems)
    names = server_names(inputs.server_cert)
    digest = config.digest
    issuer = NonceIssuer(digest_state.key, digest.realm.encode("ascii"), digest.nonce_lifetime)
    root = x509.load_pem_x509_certificate(inputs.trust["root"])
    via = "rhttp-" + hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest()[:16]
    return Serving(
        number=previous.number + 1 if previous is not None else 1,
        config=config,
        limits=http1_limits(config.limits),
        routes=RouteTable(config.routes),
        engine=engine,
        verifier=DigestVerifier(digest.realm, digest.algorithms, issuer, digest_state.ledger),
        peers=peers,
        issuers=issuers,
        context=context,
        enroll_context=enroll_context,
        ca_certs=_ca_certs(inputs.trust) if config.enroll.enabled else {},
        names=names,
        authorities=HostMatcher([*names, *config.server_names]),
        dispatch_authorities=_dispatch_authorities(config),
        masters=_masters(process, config, previous),
        pools=_pools(process, config, previous, join),
        via=via.encode("ascii"),
        via_received=f"1.1 {via}".encode("ascii"),
        unsaid=_UNSAID[config.audit.ahead],
    )


def _verify(process: ProcessContext, peers: PeerVerifier, *, forward: bool) -> Verify:
    revoked = _Revoked(process)

    def verify(path: PresentedPath) -> object:
        peer = peers.recall(path.fingerprints, at=process.now_seconds(), revocation=revoked)
        if peer is not None and not forward:
            return SeenPath(peer, None)
        certificates = path.certificates()
        peer = peers.verify(certificates, at=process.now(), revocation=revoked)
        return SeenPath(peer, certificates[0].public_bytes(Encoding.DER) if forward else None)

    return verify


def server_names(chain: bytes) -> list[str]:
    """DNS names and IP addresses of our own certificate."""
    leaf = x509.load_pem_x509_certificates(chain)[0]
    try:
        san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*san.get_values_for_type(x509.DNSName), *map(str, san.get_values_for_type(x509.IPAddress))]


def _ca_certs(trust: Mapping[str, bytes]) -> dict[str, bytes]:
    """For each role of a peer the root and its issuing CA (RFC 7030 section 4.1.3)."""
    ders = {name: x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER) for name, pem in trust.items()}
    return {role.value: certs_only([ders["root"], ders[role.value]]) for role in PEER_ROLES}


def _dispatch_authorities(config: Config) -> HostMatcher | None:
    if not isinstance(config.dispatch, TcpAddress):
        return None
    return HostMatcher([config.dispatch.host, "localhost"])


def http1_limits(limits: Limits) -> Http1Limits:
    """The part of the limits that the HTTP/1.1 ends know."""
    return carry(Http1Limits, limits)


def _masters(process: ProcessContext, config: Config, previous: Serving | None) -> Mapping[str, MasterPool]:
    kept = previous.masters if previous is not None else {}
    return {
        name: kept[name] if name in kept and kept[name].config == master else MasterPool(process, master, speak_http1)
        for name, master in config.masters.items()
    }


def _pools(
    process: ProcessContext,
    config: Config,
    previous: Serving | None,
    join: Callable[[HostedPool], RemoteSlots] | None,
) -> Mapping[str, HostedPool | RelayPool]:
    """A pool that keeps its name and mode is the same object, with its slots and queue; commit lets it adopt the new
    settings."""
    kept = previous.pools if previous is not None else {}
    pools: dict[str, HostedPool | RelayPool] = {}
    for name, wanted in config.pools.items():
        old = kept.get(name)
        if old is not None and old.mode == wanted.mode:
            pools[name] = old
        elif wanted.mode == "relay":
            pools[name] = RelayPool(process, wanted)
        else:
            pools[name] = HostedPool(process, wanted, config.trust_domain, join)
    return pools

"""Metrics for Prometheus: what one process counts, and what all of them told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.core.context import ProcessContext
from gateway.ingress.serving import serving_of
from gateway.pools.hosted import HostedPool
from rhttp import build

_COUNTS: Final = {
    "requests": "Requests answered over routes and own paths.",
    "requests_failed": "Of these, without a whole answer.",
    "dispatches": "Requests dispatched to workers.",
    "dispatches_failed": "Of these, without a whole answer.",
    "refused": "Requests refused.",
    "unauthenticated": "Of these, 401.",
    "policy_denied": "Of these, denied by policy.",
    "handshakes_refused": "TLS handshakes that failed or were refused.",
    "ocsp_signed": "OCSP answers that were signed; those that are kept are given without.",
    "ocsp_deferred": "OCSP requests told to try later: the second's signatures were spent.",
    "reversed_opened": "Role switches.",
    "retries": "Requests sent once more.",
    "strangers": "Connections refused on the sockets between the processes of this gateway.",
    "cut": "Live connections ended because a certificate, user or permission ended.",
    "audit_lost": "Audit lines that could not be written.",
}

_OF_LISTENERS: Final = (
    ("connections", False, "Open connections of a listener."),
    ("handshakes", False, "Of these, those whose handshake is not done."),
    ("accepted", True, "Connections that a listener took."),
    ("given_up", True, "Of these, ended before their time because others wanted their places."),
)


Family = tuple[str, bool, str, list[str], list[tuple[list[str], float]]]
"""Name, whether it is a counter, text, names of labels, and samples: values of the labels, number."""


def measure(process: ProcessContext) -> list[Family]:
    """All metrics of this process, as JSON values; the data path knows nothing of Prometheus."""
    counters = process.counters
    families: list[Family] = []

    def add(name: str, text: str, value: float, *, counts: bool = False) -> None:
        families.append((f"rhttp_{name}", counts, text, [], [([], value)]))

    for name, text in _COUNTS.items():
        add(name, text, getattr(counters, name), counts=True)
    facts = ["version", "kind"], [([build.version(), build.KIND], 1.0)]
    families.append(("rhttp_build_info", False, "1; its labels say what is installed.", *facts))
    add("connections", "Open connections.", counters.connections)
    roles = [([role], float(count)) for role, count in process.registry.by_role().items()]
    for name, kind, text in _OF_LISTENERS:
        of_each = [([purpose], float(counts.as_dict()[name])) for purpose, counts in process.listeners.items()]
        families.append((f"rhttp_listener_{name}", kind, text, ["listener"], of_each))
    families.append(("rhttp_role_connections", False, "Open connections by role.", ["role"], roles))
    add("exchanges", "Requests under way.", process.exchanges)
    slots: list[tuple[list[str], float]] = []
    waiting: list[tuple[list[str], float]] = []
    for name, pool in serving_of(process.generation).pools.items():
        if isinstance(pool, HostedPool):
            slots.append(([name, "free"], pool.pool.free))
            slots.append(([name, "busy"], pool.pool.total - pool.pool.free))
            waiting.append(([name], pool.pool.waiting))
        else:
            slots.append(([name, "relayed"], len(pool.connections())))
    families.append(("rhttp_pool_slots", False, "Slots of a pool.", ["pool", "state"], slots))
    families.append(("rhttp_pool_waiting", False, "Requests that wait for a slot.", ["pool"], waiting))
    left = [([name], one.next_update - process.epoch) for name, one in process.lists.lists.items()]
    text = "Until the revocation list of a CA is out of date; negative: it is."
    families.append(("rhttp_revocation_list_seconds", False, text, ["issuer"], left))
    add("draining", "1 while shutting down.", int(process.draining))
    add("generation", "Configurations taken up.", process.generation.number)
    add("state_age_seconds", "Time since state was read.", max(0.0, process.elapsed - process.state_at))
    return families


class _Report(Collector):
    """What processes told of themselves, as Prometheus sees it."""

    def __init__(self, by_process: Mapping[str, Sequence[Family]]) -> None:
        self._by_process = by_process

    def collect(self) -> Iterator[Metric]:
        """Each family once; where there are several processes, every sample is labelled with its own."""
        is_labelled = len(self._by_process) != 1 or "" not in self._by_process
        made: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for process, families in self._by_process.items():
            for name, counts, text, labels, samples in families:
                if name not in made:
                    kind = CounterMetricFamily if counts else GaugeMetricFamily
                    made[name] = kind(name, text, labels=["process", *labels] if is_labelled else labels)
                for values, number in samples:
                    made[name].add_metric([process, *values] if is_labelled else values, number)
        yield from made.values()


def metrics_text(by_process: Mapping[str, Sequence[Family]]) -> bytes:
    """Metrics in the text exposition format, by the stream of the process that told them; "": there is only one."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Report(by_process))
    return generate_latest(registry)

"""Envoy, the wheel from PyPI, as a peer: mutual TLS, RBAC on the identity's URI, a keep-alive proxy; no HTTP Digest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rig.apache import ADMISSION_PATH
from rig.home import TRUST_DOMAIN, BenchHome
from rig.processes import Server, accepts, free_port, start
from rig.programs import envoy_program

TYPE = "type.googleapis.com/envoy.extensions"


def typed(name: str, **values: Any) -> dict[str, Any]:
    """An Envoy `typed_config`."""
    return {"@type": f"{TYPE}.{name}", **values}


def config(home: BenchHome, *, port: int, origin: int, folder: Path) -> dict[str, Any]:
    """A static bootstrap: one listener, one cluster, one line in the access log for each request."""
    role = {"authenticated": {"principal_name": {"prefix": f"spiffe://{TRUST_DOMAIN}/client/"}}}
    rbac = typed(
        "filters.http.rbac.v3.RBAC",
        rules={"action": "ALLOW", "policies": {"clients": {"permissions": [{"any": True}], "principals": [role]}}},
    )
    log = typed(
        "access_loggers.file.v3.FileAccessLog",
        path=str(folder / "access.log"),
        log_format={
            "text_format_source": {
                "inline_string": '%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_PEER_SUBJECT% "%REQ(:METHOD)% '
                '%REQ(:PATH)%" %RESPONSE_CODE% %DURATION%\n'
            }
        },
    )
    routes = [
        {
            "match": {"path": ADMISSION_PATH},
            "direct_response": {"status": 200, "body": {"inline_string": "admitted: 16 b."}},
        },
        {"match": {"prefix": "/jobs/"}, "route": {"cluster": "origin", "timeout": "60s"}},
    ]
    manager = typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="bench",
        codec_type="HTTP1",
        generate_request_id=False,
        access_log=[{"name": "file", "typed_config": log}],
        route_config={"name": "all", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        http_filters=[
            {"name": "rbac", "typed_config": rbac},
            {"name": "router", "typed_config": typed("filters.http.router.v3.Router")},
        ],
    )
    tls = typed(
        "transport_sockets.tls.v3.DownstreamTlsContext",
        require_client_certificate=True,
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
        common_tls_context={
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": str(home.server_certificate)},
                    "private_key": {"filename": str(home.server_key)},
                }
            ],
            "validation_context": {"trusted_ca": {"filename": str(folder / "anchors.pem")}},
        },
    )
    listener = {
        "name": "clients",
        "address": socket_address(port),
        "filter_chains": [
            {
                "transport_socket": {"name": "tls", "typed_config": tls},
                "filters": [{"name": "http", "typed_config": manager}],
            }
        ],
    }
    limits = {"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096}
    cluster = {
        "name": "origin",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {
            "cluster_name": "origin",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(origin)}}]}],
        },
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def socket_address(port: int) -> dict[str, Any]:
    """A loopback address as Envoy writes it."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def start_envoy(home: BenchHome, *, build: Path, origin: int, folder: Path) -> Server:
    """Start Envoy with one worker thread on the server core; ready on return."""
    folder.mkdir(mode=0o755)
    (folder / "anchors.pem").write_bytes(home.client_ca.read_bytes() + home.root.read_bytes())
    port = free_port()
    file = folder / "envoy.json"
    file.write_text(json.dumps(config(home, port=port, origin=origin, folder=folder), indent=1))
    program = envoy_program(build)
    options = ["--concurrency", "1", "--disable-hot-restart", "--use-dynamic-base-id", "--log-level", "warning"]
    server = start("envoy", [program.path, "-c", file, *options], port=port, folder=folder)
    server.wait_until(lambda: accepts(port))
    return server


def envoy_build(build: Path) -> str:
    """`Envoy 1.40.0 (RELEASE), BoringSSL`, as it says of itself."""
    parts = envoy_program(build).says("--version").rpartition("version: ")[2].strip().split("/")
    if len(parts) < 5:  # commit/version/state/kind/TLS library
        return "Envoy"
    return f"Envoy {parts[1]} ({parts[3]}), {parts[4]}"

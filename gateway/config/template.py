"""The `gateway.toml` that `init` writes: what must be said, and everything else as commented examples.

Only the top-level keys and ``[digest] realm`` are active, so tables of one's own can be appended to the file. The
commented limits are made from `gateway.config.limits`, so that they are the defaults.
"""

from __future__ import annotations

import textwrap
from dataclasses import fields
from typing import get_args, get_type_hints

from gateway.config.limits import Limits
from rhttp.toml_text import toml_text

__all__ = ["build_config"]

_HEAD = """\
# The configuration of this gateway. Checked as a whole before anything starts: rhttp-pki gateway --check
# Taken up without a restart: rhttp-pki reload

trust_domain = {trust_domain}
listen = {listen}                  # TLS: clients, workers, remote masters
dispatch = "unix:run/dispatch.sock"        # masters on this host; or a loopback address, "127.0.0.1:8080"
# server_names = ["gateway.example.com"]   # further names that requests may be addressed to
# processes = 1                            # data processes, of which each keeps one core busy at most
# client_cert_field = false                # send masters the Client-Cert field (RFC 9440)

[digest]
realm = {realm}  # fixed: passwords are stored for this realm and fail under another
# algorithms = ["SHA-256"]
# nonce_lifetime = 300.0                   # seconds
# window = 1024                            # nonce counts remembered for each nonce
# nonces_per_identity = 256                # at least connections_per_client

# [groups]
# ops = ["client/alice"]

# [masters.jobs]
# urls = ["http://127.0.0.1:9000"]

# [[routes]]
# path = "/jobs/*"
# master = "jobs"
# [[routes]]                               # straight to a worker of a hosted pool
# path = "/render/*"
# pool = "render"
# strip_prefix = true                      # "/render/x" is forwarded as "/x"

# [pools.render]
# mode = "hosted"
# queue = 1000                             # requests that may wait for a slot

# [audit]
# max_bytes = 67108864                     # then a new file is begun
# keep = 0                                 # finished files kept for each stream; 0: all
# when_full = "refuse"                     # or "continue", when the disk is full
# ahead = "unsafe"                         # requests over routes with a line before they leave; "all", "none"
# fold_after = 10                          # like refusals a second before they become one line

# [state]
# url = "sqlite:///state.db"               # or "postgresql+psycopg://user@host/database"

# [metrics]
# listen = "127.0.0.1:9464"                # GET /metrics for Prometheus

# [pki]
# listen = "127.0.0.1:8088"                # revocation lists in the clear: GET /-/pki/worker.crl
# list_lifetime = 86400                    # seconds that one is good
# url = "http://pki.example.com:8088"      # where others reach it; in certificates for more than a day
# ocsp = false                             # answer OCSP requests there, too

# [enroll]
# listen = "0.0.0.0:8444"                  # EST for machines with a token: rhttp-pki token create, rhttp-pki enroll
# renew = false                            # renew certificates over the TLS listener also without `listen`
# gateway = "https://gateway.example:8443" # where they find the TLS listener, when it has another name outside

# [limits]
"""


def build_config(*, trust_domain: str, realm: str, listen: str) -> bytes:
    """The text of a new `gateway.toml`."""
    head = _HEAD.format(trust_domain=toml_text(trust_domain), realm=toml_text(realm), listen=toml_text(listen))
    return (head + "\n".join(_limits()) + "\n").encode()


def _limits() -> list[str]:
    hints = get_type_hints(Limits, include_extras=True)
    lines = []
    for field in fields(Limits):
        texts = [getattr(extra, "description", None) for extra in get_args(hints[field.name])]
        text = next((text for text in texts if text), "")
        setting = f"# {field.name} = {field.default}"
        lines.append(f"{setting:<42} # {textwrap.shorten(text, 90)}" if text else setting)
    return lines

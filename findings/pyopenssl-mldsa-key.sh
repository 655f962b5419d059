#!/usr/bin/env bash
# pyOpenSSL 26.4.0: Context.use_privatekey refuses an ML-DSA key object that the same OpenSSL takes from a file.
#
# Source: pyOpenSSL 26.4.0 and cryptography 50.0.2 from PyPI (OpenSSL 4.0.3 inside); OpenSSL.SSL.Context, OpenSSL.crypto.PKey.
# One would guess: use_privatekey takes any private key of cryptography that OpenSSL can sign handshakes with. Its documentation asks for
#   such a key and calls PKey objects deprecated; cryptography makes ML-DSA keys, and use_certificate takes the certificate with one.
# What happens: TypeError('Unsupported key type') for the key object. PKey.from_cryptography_key has a list of types without ML-DSA.
#   use_privatekey_file with the same key in PEM works, and so does crypto.load_privatekey, whose PKey use_privatekey takes with a
#   DeprecationWarning. An Ed25519 key works as an object.
# What to do: a key in memory stays in memory with crypto.load_privatekey(FILETYPE_PEM, pem), with a file descriptor of memfd_create as
#   /proc/self/fd/N, or with OpenSSL's own functions through the bindings (PEM_read_bio_PrivateKey, SSL_CTX_use_PrivateKey).
#
# Run it: bash findings/pyopenssl-mldsa-key.sh. It needs Python 3.11 or newer with venv, Linux, and PyPI. It fails when this changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input pyopenssl==26.4.0 cryptography==50.0.2
cat >"$place/key.py" <<'PYTHON'
import os
import sys
import warnings

from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL, crypto

warnings.simplefilter("ignore", DeprecationWarning)


def outcome(use):
    try:
        use(SSL.Context(SSL.TLS_METHOD))
    except Exception as error:
        return type(error).__name__
    return "taken"


def from_file(context, pem):
    descriptor = os.memfd_create("key")
    os.write(descriptor, pem)
    context.use_privatekey_file(f"/proc/self/fd/{descriptor}")
    os.close(descriptor)


seen = {}
for name, key in (("ed25519", ed25519.Ed25519PrivateKey.generate()), ("mldsa65", mldsa.MLDSA65PrivateKey.generate())):
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    seen[name] = (
        outcome(lambda context: context.use_privatekey(key)),
        outcome(lambda context: from_file(context, pem)),
        outcome(lambda context: context.use_privatekey(crypto.load_privatekey(crypto.FILETYPE_PEM, pem))),
    )
    print(name, "as object, from a file, as PKey:", *seen[name])
if seen != {"ed25519": ("taken", "taken", "taken"), "mldsa65": ("TypeError", "taken", "taken")}:
    sys.exit("this has changed")
PYTHON
"$place/venv/bin/python" "$place/key.py"
echo "as described"

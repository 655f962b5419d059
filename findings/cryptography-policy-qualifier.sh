#!/usr/bin/env bash
# cryptography 50.0.2: one policy qualifier of another kind than PKIX's two makes every extension of the certificate unreadable.
#
# Source: cryptography 50.0.2 from PyPI, x509.Certificate.extensions; RFC 5280 section 4.2.1.4, where the two qualifiers (CPS pointer and
#   user notice) are recommended and X.509's own type leaves the kind open; openssl x509 of the system beside it.
# One would guess: a qualifier that the library does not know stays bytes, as an extension that it does not know does
#   (UnrecognizedExtension); at most the certificate policies cannot be read.
# What happens: Certificate.extensions raises ValueError ("error parsing asn1 value"), so neither the names nor the key usage nor the basic
#   constraints of that certificate can be had, whichever of them one asks for. The certificate itself loads. openssl prints
#   "Unknown Qualifier" and all the rest.
# What to do: a certificate of somebody else's CA may be one that the library cannot look into at all; catch ValueError where extensions
#   are first read, and refuse there. Who only passes such certificates on should not read their extensions.
#
# Run it: bash findings/cryptography-policy-qualifier.sh. It needs Python 3.11 or newer with venv, openssl, and PyPI. It fails when this
# changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input cryptography==50.0.2
cat >"$place/make.py" <<'PYTHON'
import datetime
import sys

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID


def tlv(tag, *content):
    return bytes([tag, len(b"".join(content))]) + b"".join(content)


def policies(qualifier):
    """One policy with one qualifier, a UTF8String, of this kind."""
    info = tlv(0x30, tlv(6, bytes.fromhex("2a0304")), tlv(0x30, tlv(0x30, tlv(6, qualifier), tlv(0x0C, b"anything"))))
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.32"), tlv(0x30, info))


key = ec.generate_private_key(ec.SECP256R1())
name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "qualifier")])
start = datetime.datetime(2026, 1, 1)
builder = x509.CertificateBuilder(name, name, key.public_key(), 5, start, start + datetime.timedelta(days=3650))
builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("host.example")]), critical=False)


def names(certificate):
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    except ValueError as error:
        return f"ValueError: {str(error).split(':')[0]}"


plain = builder.sign(key, SHA256())
qualified = builder.add_extension(policies(bytes.fromhex("2a0305")), critical=False).sign(key, SHA256())
with open(sys.argv[1], "wb") as file:
    file.write(qualified.public_bytes(Encoding.PEM))
print("without policies:", names(plain))
print("with a qualifier of kind 1.2.3.5:", names(x509.load_pem_x509_certificate(open(sys.argv[1], "rb").read())))
PYTHON
seen="$("$place/venv/bin/python" "$place/make.py" "$place/cert.pem")"
text="$(openssl x509 -in "$place/cert.pem" -noout -text)"
printf '%s\n' "$seen"
printf '%s\n' "$text" | grep -E 'Unknown Qualifier|DNS:'
[ "$seen" = "without policies: ['host.example']
with a qualifier of kind 1.2.3.5: ValueError: error parsing asn1 value" ] || { echo "changed"; exit 1; }
printf '%s\n' "$text" | grep -q 'DNS:host.example' || { echo "changed: openssl"; exit 1; }
echo "as described"

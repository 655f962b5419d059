#!/usr/bin/env bash
# cryptography 50.0.2: `kdf_rounds` of a PKCS #12 file slows down the decryption, and not the guessing of its password.
#
# Source: cryptography 50.0.2 from PyPI, CPython 3.11 or newer; the `openssl` command reads what was written.
#   Related: https://github.com/pyca/cryptography/issues/9644 (the number was 1 until it was raised).
# One would guess: `PrivateFormat.PKCS12.encryption_builder().kdf_rounds(1_000_000)` makes each guess of the password
#   cost a million rounds, as it does for OpenSSH's keys.
# What happens: such a file has two derivations. The key of the encryption gets the number asked for; the key of the MAC
#   gets 2,048 rounds, whatever is asked, and the MAC alone tells whether a password is right. There is no setting for
#   it, and none to leave the MAC out.
# What to do: give such files a password that was made (128 bits of chance), not one that was thought of. `openssl
#   pkcs12 -export -iter N` has one number for both.
#
# Run it: bash findings/cryptography-pkcs12-mac.sh. It needs Python 3.11 or newer with venv, openssl 3, and PyPI: ten
# seconds. It fails when this changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input cryptography==50.0.2
cd "$place"
venv/bin/python - <<'PYTHON'
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

key = ec.generate_private_key(ec.SECP256R1())
with open("key.pem", "wb") as file:
    file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
for rounds in (2_048, 1_000_000):
    builder = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(rounds)
    with open(f"{rounds}.p12", "wb") as file:
        file.write(serialize_key_and_certificates(b"x", key, None, None, builder.build(b"secret")))
PYTHON
openssl pkcs12 -export -inkey key.pem -nocerts -iter 1000000 -out openssl.p12 -passout pass:secret
seen=""
for file in 2048.p12 1000000.p12 openssl.p12; do
    said="$(openssl pkcs12 -in "$file" -passin pass:secret -info -noout 2>&1)"
    mac="$(sed -n 's/^MAC: sha256, Iteration //p' <<<"$said")"
    encryption="$(sed -n 's/^Shrouded Keybag: .*Iteration \([0-9]*\),.*/\1/p' <<<"$said")"
    echo "$file: $encryption rounds for the encryption, $mac for the MAC"
    seen="$seen $encryption/$mac"
done
if [ "$seen" = " 2048/2048 1000000/2048 1000000/1000000" ]; then
    echo "as described"
else
    echo "this has changed:$seen"
    exit 1
fi

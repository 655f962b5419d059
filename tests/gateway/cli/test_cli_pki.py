"""`init`, `issue-*`, `renew`, `revoke`: what users rely on."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID
from support.homes import new_home, run_cli, start_cli

from gateway import adminclient, auditlog, desk
from gateway.cli.pki import _REASONS
from gateway.home import Home
from gateway.snapshot import StateSnapshot
from gateway.state import load_snapshot, open_state
from pki import files
from pki.keys import is_sealed
from pki.names import Role
from pki.pem import read_certificates
from pki.revocation import RevocationReason
from pki.verify import verify_file
from rhttp.digest import Algorithm, ha1

REALM = "rhttp@example.internal"
BUNDLE = {"cert.pem", "key.pem", "trust.pem", "password", "curl.conf", "rhttp.toml"}


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that is made once and copied for each test."""
    return new_home(tmp_path_factory.mktemp("pattern") / "home", sans=("DNS:gw.example.com",)).path


@pytest.fixture
def home(pattern: Path, tmp_path: Path) -> Home:
    """A home of one's own."""
    shutil.copytree(pattern, tmp_path / "home")
    return Home(tmp_path / "home")


@pytest.fixture
def sealed(tmp_path: Path) -> tuple[Home, Path]:
    """A home whose keys are sealed, and the file with its passphrase."""
    file = tmp_path / "passphrase"
    file.write_text("correct horse\n")
    return new_home(tmp_path / "sealed", passphrase=b"correct horse"), file


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def leaf_of(bundle: Path) -> x509.Certificate:
    return read_certificates((bundle / "cert.pem").read_bytes())[0]


def uri_of(certificate: x509.Certificate) -> str:
    sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = sans.get_values_for_type(x509.UniformResourceIdentifier)
    return uri


def listed(home: Home, *arguments: str) -> list[dict[str, object]]:
    result = run_cli(home, "list", "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["certificates"]
    return [entry for entry in found if entry["role"] != "server"]


def snapshot_of(home: Home) -> StateSnapshot:
    engine = open_state(home)
    try:
        return load_snapshot(engine, home.state_key.read_bytes())
    finally:
        engine.dispose()


def refused(result: Result, said: str) -> None:
    """Exit status 1, nothing on stdout, one line on stderr that says it, no traceback."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.output


# -- init --------------------------------------------------------------------------------------------------------------


def test_init_makes_a_complete_private_home(tmp_path: Path) -> None:
    """Directory, configuration, policy, keys, certificates, database are there, and only the owner may look."""
    home = Home(tmp_path / "a" / "home")
    result = run_cli(home, "init", "--trust-domain", "example.internal")
    assert result.exit_code == 0, result.stderr
    home.require()
    keys = {"root", "server-ca", "client-ca", "worker-ca", "master-ca", "server", "state", "checkpoint"}
    assert {path.name for path in home.keys.iterdir()} == {f"{name}.key" for name in keys}
    assert {mode_of(path) for path in home.keys.iterdir()} == {0o600}
    assert {mode_of(path) for path in (home.path, home.keys, home.run, home.bundles)} == {0o700}
    for path in (home.policy, home.schema, home.state_db, home.checkpoint_pub, home.ca_cert(Role.MASTER)):
        assert path.is_file()


def test_init_server_certificate_names_localhost_and_the_sans(tmp_path: Path) -> None:
    """localhost, 127.0.0.1, ::1 always, and every --san; it verifies under the root."""
    home = Home(tmp_path / "home")
    assert run_cli(home, "init", "--san", "DNS:gw.example.com", "--san", "IP:192.0.2.7").exit_code == 0
    leaf, issuer = read_certificates(home.server_cert.read_bytes())
    sans = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert sans.get_values_for_type(x509.DNSName) == ["localhost", "gw.example.com"]
    assert [str(ip) for ip in sans.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1", "192.0.2.7"]
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= timedelta(days=31)
    assert issuer.public_bytes(Encoding.PEM) == home.ca_cert(Role.SERVER).read_bytes()
    verify_file(home.server_cert.read_bytes(), home.root_cert.read_bytes(), role=Role.SERVER, at=datetime.now(UTC))


def test_init_configuration_can_be_appended_to(home: Home) -> None:
    """Only what must be said is active, so tables of one's own can follow, and every example is valid TOML."""
    text = home.config.read_text()
    assert tomllib.loads(text) == {
        "trust_domain": "example.internal",
        "listen": "127.0.0.1:8443",
        "dispatch": "unix:run/dispatch.sock",
        "digest": {"realm": REALM},
    }
    assert tomllib.loads(text + '[pools.render]\nmode = "hosted"\n')["pools"] == {"render": {"mode": "hosted"}}
    examples = tomllib.loads("\n".join(line.removeprefix("# ") for line in text.splitlines()[3:]))
    assert {"groups", "masters", "routes", "pools", "audit", "state", "metrics", "limits"} <= set(examples)


@pytest.mark.parametrize("with_examples", [False, True])
def test_init_configuration_is_accepted_by_the_gateway(home: Home, with_examples: bool) -> None:
    """The gateway takes the file as written, and with every example switched on."""
    from gateway.config import load_config

    if with_examples:
        lines = home.config.read_text().splitlines()
        home.config.write_text("\n".join([*lines[:2], *(line.removeprefix("# ") for line in lines[2:])]) + "\n")
    config = load_config(home.config)
    assert (config.trust_domain, config.digest.realm) == ("example.internal", REALM)
    if with_examples:
        assert (tuple(config.pools), config.limits) == (("render",), type(config.limits)())


def test_init_in_an_empty_directory_is_done(tmp_path: Path) -> None:
    """An existing empty directory becomes the home, and private."""
    (tmp_path / "home").mkdir(mode=0o755)
    assert run_cli(tmp_path / "home", "init").exit_code == 0
    Home.open(tmp_path / "home")


@pytest.mark.parametrize("kind", ["home", "other files", "file", "dangling link"])
def test_init_never_overwrites(tmp_path: Path, pattern: Path, kind: str) -> None:
    """Whatever is at the place stays as it is."""
    place = tmp_path / "home"
    match kind:
        case "home":
            shutil.copytree(pattern, place)
        case "other files":
            place.mkdir()
            (place / "mine").write_text("x")
        case "file":
            place.write_text("x")
        case "dangling link":
            place.symlink_to(tmp_path / "gone")
    before = {path: path.read_bytes() if path.is_file() else None for path in sorted(tmp_path.rglob("*"))}
    if kind == "file":
        assert run_cli(place, "init").exit_code == 2
    else:
        refused(run_cli(place, "init"), "nothing is overwritten")
    assert {path: path.read_bytes() if path.is_file() else None for path in sorted(tmp_path.rglob("*"))} == before


def test_init_failing_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails in the middle leaves neither a home nor pieces beside its place."""
    calls = iter(range(100))
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if next(calls) == 8:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    refused(run_cli(tmp_path / "home", "init"), "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_init_broken_off_by_a_kill_leaves_no_half_home(tmp_path: Path) -> None:
    """When the process dies just before the last step, nothing is at the place, and init can be run again."""
    place = tmp_path / "home"
    child = os.fork()
    if child == 0:
        files.os.rename = lambda *_: os._exit(9)  # type: ignore[assignment]
        try:
            new_home(place)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not place.exists()
    new_home(place).require()


def test_init_told_to_end_cleans_up(tmp_path: Path) -> None:
    """SIGTERM in the middle leaves neither a home nor pieces of one."""
    (tmp_path / "passphrase").write_text("x\n")
    place = tmp_path / "homes" / "home"
    process = start_cli(place, "init", "--passphrase-file", tmp_path / "passphrase")
    # Sealing eight keys takes a while after the first piece is to be seen.
    while process.poll() is None and not any(tmp_path.glob("homes/.home.*/keys/root.key")):
        os.sched_yield()
    process.terminate()
    process.communicate()
    assert process.returncode == 128 + 15
    assert [path.name for path in tmp_path.iterdir()] == ["passphrase"]


def test_init_of_two_at_once_makes_one_home(tmp_path: Path) -> None:
    """Of two processes that make the same home one succeeds, the other is refused, and the home works."""
    running = [start_cli(tmp_path / "home", "init") for _ in range(2)]
    outcomes = [process.communicate() for process in running]
    assert sorted(process.returncode for process in running) == [0, 1], outcomes
    assert run_cli(tmp_path / "home", "issue-client", "alice").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("domain", ["Example.org", "a/b", "a..b", "", "spiffe://a", "a.b:1", "x" * 254, "a b"])
def test_init_trust_domain_that_is_none_is_wrong_usage(tmp_path: Path, domain: str) -> None:
    """The trust domain follows SPIFFE: lower case, no port, no path."""
    result = run_cli(tmp_path / "home", "init", "--trust-domain", domain)
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "san", ["gw", "DNS:*.example.com", "DNS:GW", "IP:300.1.1.1", "IP:fe80::1%eth0", "URI:x", "DNS:"]
)
def test_init_san_that_is_none_is_wrong_usage(tmp_path: Path, san: str) -> None:
    """Only plain DNS names and IP addresses are names of a gateway."""
    assert run_cli(tmp_path / "home", "init", "--san", san).exit_code == 2


# -- passphrase --------------------------------------------------------------------------------------------------------


def test_passphrase_seals_every_key(sealed: tuple[Home, Path]) -> None:
    """No key of a home with a passphrase is in the clear."""
    assert all(is_sealed(path.read_bytes()) for path in sealed[0].keys.iterdir())


def test_passphrase_missing_or_wrong_is_one_line(sealed: tuple[Home, Path], tmp_path: Path) -> None:
    """Without the right passphrase nothing is issued, nothing is left, and no passphrase is shown."""
    home, file = sealed
    refused(run_cli(home, "issue-client", "alice"), "give the passphrase")
    wrong = tmp_path / "wrong"
    wrong.write_text("incorrect-donkey\n")
    result = run_cli(home, "issue-client", "alice", "--passphrase-file", wrong)
    refused(result, "does not open")
    assert "incorrect-donkey" not in result.output
    refused(
        run_cli(home, "issue-client", "alice", "--passphrase-file", tmp_path / "none"), "cannot read the passphrase"
    )
    assert list(home.bundles.iterdir()) == []
    assert run_cli(home, "issue-client", "alice", "--passphrase-file", file).exit_code == 0


def test_passphrase_right_does_everything_and_keeps_keys_sealed(sealed: tuple[Home, Path]) -> None:
    """All commands work on a sealed home; a new server key is sealed like the old one; looking needs no passphrase."""
    home, file = sealed
    for command in (
        ["issue-worker", "w1", "--pool", "p"],
        ["issue-server"],
        ["renew", str(home.bundles / "w1")],
        ["crl", "--role", "worker"],
    ):
        result = run_cli(home, command[0], "--passphrase-file", file, *command[1:])
        assert result.exit_code == 0, result.stderr
    assert is_sealed(home.server_key.read_bytes())
    for command in (["list"], ["show", "w1"], ["revoke", "w1"]):
        assert run_cli(home, *command).exit_code == 0


# -- issue -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "identity", "days"),
    [
        (["issue-client", "n1"], "client/n1", 30),
        (["issue-worker", "n1", "--pool", "render"], "worker/render/n1", 1),
        (["issue-master", "n1"], "master/n1", 30),
    ],
)
def test_issue_makes_a_bundle(home: Home, arguments: list[str], identity: str, days: int) -> None:
    """The bundle is complete and private, its certificate says who it is for how long, and the gateway accepts it."""
    result = run_cli(home, *arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    bundle = home.bundles / "n1"
    assert {path.name for path in bundle.iterdir()} == BUNDLE
    assert mode_of(bundle) == 0o700
    assert {mode_of(bundle / name) for name in ("key.pem", "password", "curl.conf")} == {0o600}
    leaf, issuer = read_certificates((bundle / "cert.pem").read_bytes())
    role = Role(identity.split("/")[0])
    assert uri_of(leaf) == f"spiffe://example.internal/{identity}"
    assert issuer.public_bytes(Encoding.PEM) == home.ca_cert(role).read_bytes()
    assert abs(leaf.not_valid_after_utc - datetime.now(UTC) - timedelta(days=days)) < timedelta(minutes=1)
    assert (bundle / "trust.pem").read_bytes() == home.root_cert.read_bytes()
    assert load_pem_private_key((bundle / "key.pem").read_bytes(), None).public_key() == leaf.public_key()
    peer = verify_file(
        (bundle / "cert.pem").read_bytes(), (bundle / "trust.pem").read_bytes(), role=role, at=datetime.now(UTC)
    )
    assert getattr(peer, "name") == "n1"  # noqa: B009 - the type has two shapes
    settings = tomllib.loads((bundle / "rhttp.toml").read_text())
    pool = {"pool": "render"} if role is Role.WORKER else {}
    assert settings == {"gateway": "https://127.0.0.1:8443", "name": "n1", "user": "n1", "role": role.value, **pool}


def test_issue_password_is_the_users_and_nowhere_else(home: Home) -> None:
    """The password opens the stored credential; it is in `password` and `curl.conf`, and nowhere else."""
    result = run_cli(home, "issue-client", "alice")
    password = (home.bundles / "alice" / "password").read_text()
    assert password.endswith("\n")
    password = password.removesuffix("\n")
    assert len(password) >= 32
    user = snapshot_of(home).users["alice"]
    assert (user.enabled, user.ha1["SHA-256"]) == (True, ha1("alice", REALM, password, Algorithm.SHA_256))
    holders = {path.name for path in home.path.rglob("*") if path.is_file() and password.encode() in path.read_bytes()}
    assert holders == {"password", "curl.conf"}
    assert password not in result.output


def test_issue_user_has_every_algorithm_that_is_configured(home: Home) -> None:
    """Credentials are stored for what the gateway offers, since the password is not known later."""
    home.config.write_text(
        home.config.read_text().replace('# algorithms = ["SHA-256"]', 'algorithms = ["SHA-256", "MD5"]')
    )
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    assert set(snapshot_of(home).users["alice"].ha1) == {"SHA-256", "MD5"}


def test_issue_curl_conf_works_from_anywhere(home: Home) -> None:
    """Paths are absolute, since curl reads them relative to where it is started; quoting is curl's."""
    out = home.path.parent / 'a "b" \\c'
    assert run_cli(home, "issue-client", "alice", "--out", os.path.relpath(out)).exit_code == 0
    text = (out / "curl.conf").read_text()
    quoted = str(out).replace("\\", "\\\\").replace('"', '\\"')
    for option, name in (("cacert", "trust.pem"), ("cert", "cert.pem"), ("key", "key.pem")):
        assert f'{option} = "{quoted}/{name}"' in text
    assert "\ndigest\n" in text


def test_issue_labels_reach_the_snapshot(home: Home) -> None:
    """Labels of a worker's certificate are what policies see, by its serial."""
    arguments = ("issue-worker", "w1", "--pool", "p", "--label", "gpu=a100", "--label", "zone=eu-1")
    assert run_cli(home, *arguments).exit_code == 0
    (entry,) = listed(home)
    assert snapshot_of(home).labels == {entry["serial"]: {"gpu": "a100", "zone": "eu-1"}}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("p256", ec.SECP256R1), ("p384", ec.SECP384R1), ("ed25519", ed25519.Ed25519PublicKey)],
)
def test_issue_key_type_is_as_asked(home: Home, kind: str, expected: type) -> None:
    """Each kind of key that is offered can be had."""
    assert run_cli(home, "issue-client", "alice", "--key-type", kind).exit_code == 0
    key = leaf_of(home.bundles / "alice").public_key()
    assert isinstance(key.curve if isinstance(key, ec.EllipticCurvePublicKey) else key, expected)


@pytest.mark.parametrize(("ttl", "seconds"), [("90s", 90), ("15m", 900), ("24h", 86_400), ("30d", 2_592_000)])
def test_issue_ttl_is_as_asked(home: Home, ttl: str, seconds: int) -> None:
    """Seconds, minutes, hours and days are understood."""
    assert run_cli(home, "issue-client", "alice", "--ttl", ttl).exit_code == 0
    left = leaf_of(home.bundles / "alice").not_valid_after_utc - datetime.now(UTC)
    assert 0 <= seconds - left.total_seconds() < 60


@pytest.mark.parametrize("ttl", ["", "0s", "10", "-5m", "1.5h", "5 m", "1w", "9999999d", "٣m"])
def test_issue_ttl_that_is_none_is_wrong_usage(home: Home, ttl: str) -> None:
    """A lifetime that cannot be meant is wrong usage."""
    assert run_cli(home, "issue-client", "alice", "--ttl", ttl).exit_code == 2
    assert listed(home) == []


def test_issue_never_outlives_the_issuer(home: Home) -> None:
    """The longest lifetime ends with the issuing CA, at the latest."""
    assert run_cli(home, "issue-client", "alice", "--ttl", "730d").exit_code == 0
    leaf, issuer = read_certificates((home.bundles / "alice" / "cert.pem").read_bytes())
    assert leaf.not_valid_after_utc <= issuer.not_valid_after_utc


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a.b", "a/b", "../x", "x" * 64, "ä"])
def test_issue_name_that_is_none_is_wrong_usage(home: Home, name: str) -> None:
    """NAME is one lower-case label."""
    assert run_cli(home, "issue-client", "--", name).exit_code == 2


@pytest.mark.parametrize("label", ["gpu", "=x", "a=", "a= b", "a=b\nc", "a=" + "x" * 64])
def test_issue_label_that_is_none_is_wrong_usage(home: Home, label: str) -> None:
    """A label is a short key and value of plain characters."""
    assert run_cli(home, "issue-worker", "w1", "--pool", "p", "--label", label).exit_code == 2


def test_issue_label_given_twice_is_wrong_usage(home: Home) -> None:
    """Two values for one label cannot both hold."""
    arguments = ("issue-worker", "w1", "--pool", "p", "--label", "a=1", "--label", "a=2")
    assert run_cli(home, *arguments).exit_code == 2


def test_issue_worker_without_pool_is_wrong_usage(home: Home) -> None:
    """A worker belongs to a pool."""
    assert run_cli(home, "issue-worker", "w1").exit_code == 2


def request_pem() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root-of-everything")])
    return key, x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256()).public_bytes(
        Encoding.PEM
    )


def test_issue_csr_certifies_its_key_and_nothing_else_of_it(home: Home, tmp_path: Path) -> None:
    """The bundle has no key; the subject that the request wishes for is ignored."""
    key, pem = request_pem()
    (tmp_path / "r.csr").write_bytes(pem)
    assert run_cli(home, "issue-client", "alice", "--csr", tmp_path / "r.csr").exit_code == 0
    bundle = home.bundles / "alice"
    assert {path.name for path in bundle.iterdir()} == BUNDLE - {"key.pem"}
    leaf = leaf_of(bundle)
    assert leaf.public_key() == key.public_key()
    assert uri_of(leaf) == "spiffe://example.internal/client/alice"
    assert "root-of-everything" not in leaf.subject.rfc4514_string()
    assert "\nkey = " not in (bundle / "curl.conf").read_text()
    refused(run_cli(home, "renew", bundle), "its key is kept elsewhere")


def test_issue_csr_broken_is_refused_and_leaves_nothing(home: Home, tmp_path: Path) -> None:
    """A request whose signature is not its key's is refused before anything is written."""
    _, pem = request_pem()
    lines = pem.splitlines()
    (tmp_path / "r.csr").write_bytes(b"\n".join([lines[0], b"AAAA" + lines[1][4:], *lines[2:]]))
    refused(run_cli(home, "issue-client", "alice", "--csr", tmp_path / "r.csr"), "signing request")
    assert (list(home.bundles.iterdir()), listed(home)) == ([], [])


def test_issue_no_user_makes_none(home: Home) -> None:
    """Without a user the bundle has no password and curl is told none."""
    assert run_cli(home, "issue-client", "alice", "--no-user").exit_code == 0
    bundle = home.bundles / "alice"
    assert not (bundle / "password").exists()
    assert not {"user", "digest"} & {line.split()[0] for line in (bundle / "curl.conf").read_text().splitlines()}
    assert "user" not in tomllib.loads((bundle / "rhttp.toml").read_text())
    assert snapshot_of(home).users == {}


def test_issue_again_leaves_the_password_of_the_first_bundle_good(home: Home, tmp_path: Path) -> None:
    """A second certificate for a name changes no password; it says so, and where to get it."""
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    before = snapshot_of(home).users["alice"]
    result = run_cli(home, "issue-client", "alice", "--out", tmp_path / "second")
    assert result.exit_code == 0
    assert "no password file is written" in result.stderr
    assert snapshot_of(home).users["alice"] == before
    assert not (tmp_path / "second" / "password").exists()
    assert '\nuser = "alice"\n' in (tmp_path / "second" / "curl.conf").read_text()
    assert len(listed(home)) == 2


def test_issue_name_for_another_role_or_pool_is_refused(home: Home) -> None:
    """A name has one role and pool, and a refusal leaves nothing."""
    assert run_cli(home, "issue-worker", "n1", "--pool", "a").exit_code == 0
    refused(run_cli(home, "issue-worker", "n1", "--pool", "b"), "belongs to worker/a/n1")
    refused(run_cli(home, "issue-client", "n1"), "belongs to worker/a/n1")
    assert len(listed(home)) == 1


def test_issue_into_a_directory_that_is_not_empty_is_refused(home: Home, tmp_path: Path) -> None:
    """No bundle is ever written over something."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    refused(run_cli(home, "issue-client", "alice", "--out", tmp_path / "out"), "is not an empty directory")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    assert (listed(home), snapshot_of(home).users) == ([], {})


@pytest.mark.parametrize("failing", ["file", "audit", "move"])
def test_issue_failing_after_signing_revokes_what_nobody_got(
    home: Home, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Wherever it breaks off: no bundle, no user, and the certificate is known and revoked."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    match failing:
        case "file":
            monkeypatch.setattr(files.os, "fsync", fail)
        case "audit":
            monkeypatch.setattr(auditlog, "append_cli", fail)
        case "move":
            monkeypatch.setattr(files.os, "rename", fail)
    refused(run_cli(home, "issue-client", "alice"), "Input/output error")
    monkeypatch.undo()
    assert list(home.bundles.iterdir()) == []
    assert [(entry["status"], entry["reason"]) for entry in listed(home)] == [("revoked", "cessationOfOperation")]
    assert snapshot_of(home).users == {}
    assert run_cli(home, "issue-client", "alice").exit_code == 0


def test_issue_of_many_at_once_corrupts_nothing(home: Home) -> None:
    """Processes at the same time, two of them for the same name: every certificate is known, every password works."""
    names = ["w1", "w2", "w3", "w4", "twin", "twin"]
    running = [start_cli(home, "issue-worker", name, "--pool", "p") for name in names]
    outcomes = {process.pid: process.communicate() for process in running}
    codes = [process.returncode for process in running]
    assert codes[:4] == [0] * 4, outcomes
    assert sorted(codes[4:]) in ([0, 0], [0, 1]), outcomes
    users = snapshot_of(home).users
    for name in {*names}:
        password = (home.bundles / name / "password").read_text().strip()
        assert users[name].ha1["SHA-256"] == ha1(name, REALM, password, Algorithm.SHA_256)
        serial = leaf_of(home.bundles / name).serial_number
        assert any(int(str(entry["serial"]), 16) == serial and entry["status"] == "valid" for entry in listed(home))
    assert {path.name for path in home.bundles.iterdir()} == {*names}
    assert run_cli(home, "audit verify").exit_code == 0


# -- renew -------------------------------------------------------------------------------------------------------------


def test_renew_replaces_key_and_certificate_and_keeps_the_rest(home: Home) -> None:
    """A new key and certificate for the same identity, labels, kind of key and lifetime; password and paths stay."""
    arguments = ("issue-worker", "w1", "--pool", "p", "--label", "a=b", "--ttl", "3h", "--key-type", "p384")
    assert run_cli(home, *arguments).exit_code == 0
    bundle = home.bundles / "w1"
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    old = leaf_of(bundle)
    assert run_cli(home, "renew", bundle).exit_code == 0
    after = {path.name: path.read_bytes() for path in bundle.iterdir()}
    new = leaf_of(bundle)
    assert {name for name in BUNDLE if before[name] != after[name]} == {"key.pem", "cert.pem"}
    assert set(after) == BUNDLE
    assert uri_of(new) == uri_of(old)
    assert new.public_key() != old.public_key()
    assert load_pem_private_key(after["key.pem"], None).public_key() == new.public_key()
    assert isinstance(new.public_key(), ec.EllipticCurvePublicKey)
    assert abs(new.not_valid_after_utc - datetime.now(UTC) - timedelta(hours=3)) < timedelta(minutes=1)
    assert mode_of(bundle / "key.pem") == 0o600
    entries = listed(home)
    assert [entry["labels"] for entry in entries] == [{"a": "b"}] * 2
    assert [entry["status"] for entry in entries] == ["valid"] * 2


@pytest.mark.parametrize("failing", [1, 2])
def test_renew_failing_leaves_the_old_pair_whole(home: Home, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    """Whichever move fails, key and certificate are the old ones, and what was signed is revoked."""
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    bundle = home.bundles / "alice"
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    real, calls = os.rename, iter(range(1, 10))

    def rename(source: Path, target: Path) -> None:
        if next(calls) == failing:
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(files.os, "rename", rename)
    refused(run_cli(home, "renew", bundle), "Input/output error")
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert sorted(str(entry["status"]) for entry in listed(home)) == ["revoked", "valid"]


def test_renew_of_what_is_no_bundle_of_ours_is_refused(home: Home, tmp_path: Path) -> None:
    """Another home's bundle, a directory without certificate, a broken certificate: one line each."""
    other = new_home(tmp_path / "other")
    assert run_cli(other, "issue-client", "alice").exit_code == 0
    refused(run_cli(home, "renew", other.bundles / "alice"), "was not issued by this home")
    refused(run_cli(home, "renew", tmp_path), "is no bundle")
    (tmp_path / "cert.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    refused(run_cli(home, "renew", tmp_path), "cert.pem")


def test_renew_of_a_revoked_certificate_is_refused(home: Home) -> None:
    """Who was revoked does not come back by renewing."""
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    assert run_cli(home, "revoke", "alice").exit_code == 0
    refused(run_cli(home, "renew", home.bundles / "alice"), "was revoked")


# -- issue-server ------------------------------------------------------------------------------------------------------


def test_issue_server_keeps_the_names_unless_told(home: Home) -> None:
    """A renewal names what the old one did; with --san it names localhost and those."""

    def names() -> list[str]:
        leaf = read_certificates(home.server_cert.read_bytes())[0]
        assert load_pem_private_key(home.server_key.read_bytes(), None).public_key() == leaf.public_key()
        sans = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return sans.get_values_for_type(x509.DNSName)

    before = home.server_cert.read_bytes()
    assert run_cli(home, "issue-server").exit_code == 0
    assert home.server_cert.read_bytes() != before
    assert names() == ["localhost", "gw.example.com"]
    assert run_cli(home, "issue-server", "--san", "DNS:other.example.com").exit_code == 0
    assert names() == ["localhost", "other.example.com"]


# -- revoke and the running gateway ------------------------------------------------------------------------------------


class Calls(list[tuple[str, str]]):
    """A running gateway that notes what it was asked, and what the state said at that moment."""

    def __init__(self, home: Home) -> None:
        super().__init__()
        self.home = home
        self.failure: Exception | None = None
        self.revoked: frozenset[str] = frozenset()

    def __call__(self, home: Path, method: str, path: str, body: object = None) -> dict[str, object]:
        assert home == self.home.path
        self.append((method, path))
        self.revoked = snapshot_of(self.home).revoked
        if self.failure is not None:
            raise self.failure
        return {"version": 1, "cut": 3, "processes": 1}


@pytest.fixture
def gateway(home: Home, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A gateway behind the admin socket."""
    calls = Calls(home)
    monkeypatch.setattr(adminclient, "call", calls)
    return calls


def test_revoke_writes_first_then_tells_the_gateway(home: Home, gateway: Calls) -> None:
    """When the gateway hears of it, the revocation is in the state; the answer says what was cut."""
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    (entry,) = listed(home)
    result = run_cli(home, "revoke", "alice", "--reason", "keycompromise")
    assert result.exit_code == 0, result.stderr
    assert gateway[-1] == ("POST", "/revoke")
    assert gateway.revoked == {entry["serial"]}
    assert "1 certificate(s) revoked" in result.stdout
    assert "cut 3 connection(s)" in result.stdout
    (entry,) = listed(home)
    assert (entry["status"], entry["reason"]) == ("revoked", "keyCompromise")


def test_revoke_when_the_gateway_fails_says_that_it_is_written(home: Home, gateway: Calls) -> None:
    """The revocation holds, the exit status is 1, and a second try tells the gateway again."""
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    gateway.failure = adminclient.AdminFailed("no answer")
    refused(run_cli(home, "revoke", "alice"), "the change is written, but the running gateway did not confirm it")
    assert [entry["status"] for entry in listed(home)] == ["revoked"]
    gateway.failure = None
    result = run_cli(home, "revoke", "alice")
    assert (result.exit_code, gateway[-1]) == (0, ("POST", "/revoke"))
    assert "nothing left to revoke" in result.stdout


def test_revoke_without_a_gateway_is_done(home: Home) -> None:
    """No gateway needs to run."""
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    result = run_cli(home, "revoke", "alice")
    assert (result.exit_code, "no gateway runs" in result.stdout) == (0, True)


@pytest.mark.parametrize(
    "form", [str, str.upper, lambda text: ":".join(text[i : i + 2] for i in range(0, len(text), 2))]
)
def test_revoke_serial_is_taken_in_any_form_of_hex(home: Home, form: object) -> None:
    """Lower, upper, with colons: the same serial; only that certificate is revoked."""
    assert callable(form)
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    assert run_cli(home, "issue-client", "bob").exit_code == 0
    serial = next(str(entry["serial"]) for entry in listed(home) if entry["name"] == "alice")
    assert run_cli(home, "revoke", "--serial", form(serial)).exit_code == 0
    assert {entry["name"]: entry["status"] for entry in listed(home)} == {"alice": "revoked", "bob": "valid"}


def test_revoke_of_nobody_is_refused(home: Home) -> None:
    """A name or serial that was never issued is a mistake and said to be one."""
    refused(run_cli(home, "revoke", "nobody"), "no certificate with the name nobody")
    refused(run_cli(home, "revoke", "--serial", "0abc"), "no certificate with the serial 0abc")


@pytest.mark.parametrize(
    "arguments", [[], ["alice", "--serial", "0a"], ["--serial", "xyz"], ["a", "--reason", "because"]]
)
def test_revoke_unclear_is_wrong_usage(home: Home, arguments: list[str]) -> None:
    """NAME or --serial, one of them; a serial in hex; a reason that there is."""
    assert run_cli(home, "revoke", *arguments).exit_code == 2


def test_revoke_reasons_are_those_of_the_library() -> None:
    """The command offers exactly what revocation lists can say."""
    assert set(_REASONS) == {reason.value for reason in RevocationReason}


def test_issue_and_renew_tell_the_gateway_and_go_on_without(home: Home, gateway: Calls) -> None:
    """A new user can sign in at once; when the gateway does not answer, it finds out by itself: a note, no failure."""
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    assert gateway[-1] == ("POST", "/refresh")
    gateway.failure = adminclient.AdminFailed("no answer")
    result = run_cli(home, "renew", home.bundles / "alice")
    assert (result.exit_code, "note:" in result.stderr) == (0, True)


def test_issue_server_has_the_gateway_reload(home: Home, gateway: Calls) -> None:
    """The new certificate is taken up without a restart."""
    assert run_cli(home, "issue-server").exit_code == 0
    assert gateway == [("POST", "/reload")]


def test_every_change_is_in_the_audit_log(home: Home) -> None:
    """Issuing, renewing and revoking leave one line each, with identity, serial and outcome."""
    for command in (["issue-worker", "w1", "--pool", "p"], ["renew", str(home.bundles / "w1")], ["revoke", "w1"]):
        assert run_cli(home, *command).exit_code == 0
    lines = [
        json.loads(line) for file in sorted(home.audit.glob("cli-*.jsonl")) for line in file.read_text().splitlines()
    ]
    seen = [(line["event"], line["identity"], line["outcome"]) for line in lines if line["identity"] == "worker/w1"]
    assert seen == [(f"pki.{event}", "worker/w1", "done") for event in ("issued", "renewed", "revoked", "revoked")]
    assert {line["serial"] for line in lines} >= {str(entry["serial"]) for entry in listed(home)}


# -- what can go wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ["issue-client", "a"],
        ["issue-server"],
        ["renew", "/"],
        ["revoke", "a"],
        ["list"],
        ["show", "a"],
        ["crl", "--role", "client"],
    ],
)
def test_home_missing_is_one_line_everywhere(tmp_path: Path, command: list[str]) -> None:
    """Every command that needs a home says how to make one."""
    refused(run_cli(tmp_path / "none", *command), "make it with `rhttp-pki init`")


def test_home_behind_a_symlink_is_used(home: Home, tmp_path: Path) -> None:
    """A link to a home is as good as the home."""
    (tmp_path / "link").symlink_to(home.path)
    assert run_cli(tmp_path / "link", "issue-client", "alice").exit_code == 0
    assert (home.bundles / "alice" / "cert.pem").is_file()


@pytest.mark.parametrize(
    ("breakage", "said"),
    [
        ("locked", "in use by another command"),
        ("rubbish", "is broken"),
        ("gone", "is missing"),
        ("old", "rhttp-pki db upgrade"),
        ("key", "restore it from a backup"),
        ("mode", "chmod 700"),
    ],
)
def test_home_broken_is_one_line(home: Home, monkeypatch: pytest.MonkeyPatch, breakage: str, said: str) -> None:
    """A database or key that cannot be used is one line with the mend, no traceback, and nothing is left behind."""
    held = None
    match breakage:
        case "locked":
            from gateway import state

            monkeypatch.setattr(state, "_BUSY_SECONDS", 0.05)
            held = open_state(home).connect()
            held.begin()
        case "rubbish":
            home.state_db.write_bytes(b"not a database, certainly not" * 100)
        case "gone":
            home.state_db.unlink()
        case "old":
            engine = open_state(home)
            with engine.begin() as connection:
                connection.exec_driver_sql("DROP TABLE alembic_version")
            engine.dispose()
        case "key":
            home.ca_key(Role.CLIENT).write_bytes(b"")
        case "mode":
            home.path.chmod(0o755)
    refused(run_cli(home, "issue-client", "alice"), said)
    assert list(home.bundles.iterdir()) == []
    if held is not None:
        held.close()
        held.engine.dispose()


def test_unforeseen_failure_is_one_line_without_its_text(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception nobody thought of shows its type only: its text may quote a secret."""

    def fail(*_: object) -> None:
        raise RuntimeError("hunter2")

    monkeypatch.setattr(desk, "open_state", fail)
    result = run_cli(home, "list")
    refused(result, "internal error (RuntimeError)")
    assert "hunter2" not in result.output


def test_command_as_process_shows_no_traceback(tmp_path: Path) -> None:
    """The installed command fails in one line too."""
    process = start_cli(tmp_path / "none", "list")
    out, err = process.communicate()
    assert (process.returncode, out) == (1, "")
    assert err.count("\n") == 1

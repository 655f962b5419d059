"""The server certificate: when the next one is due, and what becomes of a try that fails."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from support.homes import new_home

from gateway.home.layout import Home
from gateway.home.server_renewal import renew_server
from gateway.home.session import HomeSession
from gateway.supervisor import server_renewal
from gateway.supervisor.server_renewal import ServerRenewal, times_left
from pki.profiles import CLOCK_CUSHION

KEY = ec.generate_private_key(ec.SECP256R1())
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def chain(begins: datetime, life: timedelta) -> bytes:
    """A certificate that is to live from then on, and begins a little earlier for clocks that are behind."""
    builder = x509.CertificateBuilder(NAME, NAME, KEY.public_key(), 1, begins - CLOCK_CUSHION, begins + life)
    return builder.sign(KEY, SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize("life", [timedelta(seconds=60), timedelta(days=30)])
def test_certificate_is_due_at_two_thirds_of_its_life(life: timedelta) -> None:
    """Counted from when it was issued."""
    pem = chain(AT, life)
    assert times_left(pem, AT) == (life * 2 / 3 / timedelta(seconds=1), life / timedelta(seconds=1))
    assert times_left(pem, AT + life * 2 / 3)[0] == 0
    assert times_left(pem, AT + life)[1] == 0


class Watched:
    """A renewal that fails as often as it is told, and what was said of it."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.pem = chain(datetime.now(UTC) - timedelta(days=29), timedelta(days=30))
        self.reloads = 0
        self.log: list[str] = []
        self.done = asyncio.Event()
        self.renewal = ServerRenewal(self._renew, lambda: self.pem, self._reload, self.log.append)

    def _renew(self) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise OSError("the disk is full")

    async def _reload(self) -> None:
        self.pem = chain(datetime.now(UTC), timedelta(days=30))
        self.reloads += 1
        self.done.set()


@pytest.mark.parametrize("failures", [0, 3])
async def test_due_certificate_is_renewed_and_taken_up(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Again and again when it fails, which is told once; and then it is left alone."""
    slept: list[float] = []
    sleep = asyncio.sleep

    async def soon(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    watched = Watched(failures)
    monkeypatch.setattr("gateway.supervisor.server_renewal.asyncio.sleep", soon)
    task = asyncio.create_task(watched.renewal.run())
    await asyncio.wait_for(watched.done.wait(), 20)
    task.cancel()
    assert watched.reloads == 1
    assert watched.log[-1] == "the server certificate was renewed"
    assert sum("the disk is full" in line for line in watched.log) == (1 if failures else 0)
    assert slept[:failures] == [server_renewal.AGAIN] * failures


async def test_without_a_way_to_renew_it_ends_at_once() -> None:
    """A gateway that somebody else cares for."""
    await asyncio.wait_for(ServerRenewal(None, lambda: b"", asyncio.sleep, print).run(), 20)  # type: ignore[arg-type]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home of one's own."""
    return new_home(tmp_path / "home")


def test_next_certificate_has_names_and_lifetime_of_the_present_one(home: Home) -> None:
    """And another key; it is in the inventory and in the log."""
    before = x509.load_pem_x509_certificates(home.server_cert.read_bytes())[0]
    record = renew_server(home, None)
    after = x509.load_pem_x509_certificates(home.server_cert.read_bytes())[0]
    san = x509.SubjectAlternativeName
    assert after.extensions.get_extension_for_class(san) == before.extensions.get_extension_for_class(san)
    assert after.public_key() != before.public_key()
    assert record.not_after - record.issued_at == timedelta(days=30).total_seconds()
    with HomeSession(home, None) as session:
        assert session.inventory.by_serial(record.serial) is not None


def test_home_without_the_key_of_the_server_ca_keeps_the_present_one(home: Home) -> None:
    """The text says what is missing."""
    before = home.server_cert.read_bytes()
    (home.keys / "server-ca.key").unlink()
    with pytest.raises(Exception, match="server-ca"):
        renew_server(home, None)
    assert home.server_cert.read_bytes() == before

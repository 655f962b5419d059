"""An issuer of the test's: takes every order and answers what it is told to."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from support.certs import authority, peer

from pki.names import Role


class StandinIssuer:
    """Answers every order with `result`, when it is let."""

    def __init__(self) -> None:
        self.orders: list[dict[str, Any]] = []
        self.chain = [peer().public_bytes(Encoding.DER), authority(Role.WORKER).certificate.public_bytes(Encoding.DER)]
        self.result: Mapping[str, object] = {
            "chain": [base64.b64encode(one).decode() for one in self.chain],
            "serial": "0a",
            "name": "w1",
            "repeated": False,
        }
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, order: Mapping[str, object]) -> Mapping[str, object]:
        self.orders.append(dict(order))
        await self.may_answer.wait()
        return self.result

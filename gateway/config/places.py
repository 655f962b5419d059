"""Where a gateway listens, held against itself and its masters.

Trust: pure; trusts the operator to mean well.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.config.address import overlap, parse_master_url, reaches
from gateway.config.models import MasterTable
from gateway.config.tables import Notes
from gateway.config.values import MasterUrl, TcpAddress, UnixAddress


def check_places(
    addresses: Mapping[str, TcpAddress | UnixAddress | None], masters: Mapping[str, MasterTable], notes: Notes
) -> None:
    """No two listeners at one place, and no master that is the gateway itself."""
    tcp = [(key, address) for key, address in addresses.items() if isinstance(address, TcpAddress)]
    for place, (key, address) in enumerate(tcp):
        for other, earlier in tcp[:place]:
            if overlap(address, earlier):
                notes.say(f"{address} overlaps with {other} ({earlier}); choose another port", *key.split("."))
    for name, master in masters.items():
        for index, text in enumerate(master.urls):
            url = parse_master_url(text)
            for key, address in tcp:
                if isinstance(url, MasterUrl) and reaches(url, address):
                    text = f"{url} is this gateway's own {key} address; a master is another server"
                    notes.say(f"{text}, so name its address", "masters", name, "urls", index)

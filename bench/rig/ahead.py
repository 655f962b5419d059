"""What a line ahead costs: `[audit] ahead` with each of its values, side by side."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from rig.measure import exchanges
from rig.stage import Options, another, new_report, stage, take_turns

DEFAULT = "unsafe"
OTHERS = ("all", "none")


def ahead(options: Options) -> list[dict[str, Any]]:
    """Small requests over a route through three gateways that differ in `[audit] ahead`: GET, then POST of 16 bytes.

    `ratio_X` compares the default's requests a second with those of the value X, `cpu_ratio_X` its processor time of a
    request. GET has a line ahead with "all" alone, POST with "all" and with the default.
    """
    reports = []
    with contextlib.ExitStack() as running:
        on = running.enter_context(stage(options, peers=()))
        stages = {DEFAULT: on}
        for value in OTHERS:
            more = another(
                options, folder=on.folder, origin=on.origin, name=value, workers=options.workers, ahead=value
            )
            gateway = running.enter_context(more)
            stages[value] = replace(on, home=gateway.home, gateway=gateway.server)
        for method, body in (("GET", 0), ("POST", 16)):
            settings = {"method": method, "conns": options.conns, "reply_bytes": options.reply, "body_bytes": body}
            report = new_report("ahead", options, settings, ())
            turns = {value: exchanges(one, one.gateway, options, body=body) for value, one in stages.items()}
            reports.append(report.finish(**take_turns(report, turns, options)))
    return reports

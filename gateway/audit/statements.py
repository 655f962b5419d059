"""What the log says of itself (``admin.audit_*``), in words, and whether it is bad news: pure.

Trust: the lines are proved by their chain already; what they say is what the writers found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.audit.chain import Finding, Statement


def read_statements(statements: Iterable[Statement]) -> tuple[list[Finding], list[str], int]:
    """What somebody else did to the log, what is worth knowing, and how many lines could not be written."""
    findings: list[Finding] = []
    notes: list[str] = []
    missing = 0
    for one in statements:
        detail = one.record.get("detail")
        facts: Mapping[str, object] = detail if isinstance(detail, Mapping) else {}
        name, count, file = facts.get("name"), facts.get("count"), facts.get("file")
        note = ""
        match one.record.get("event"):
            case "admin.audit_foreign" if one.record.get("outcome") == "found":
                what = f"somebody else changed {file} while it was written ({count} bytes)"
                findings.append(Finding(file=one.file, line=one.line, what=what))
            case "admin.audit_foreign":
                what = f"{count} lines of {name} were not ours; they were moved to {file}"
                findings.append(Finding(file=one.file, line=one.line, what=what))
            case "admin.audit_resumed":
                lost = one.record.get("count")
                missing += lost if isinstance(lost, int) else 0
                note = f"{lost} lines before it could not be written"
            case "admin.audit_adopted":
                note = (
                    f"{count} lines of {name}, up to number {facts.get('version')}, were found after their writer was"
                    " killed; before this line only the chain spoke for them"
                )
            case "admin.audit_torn":
                note = f"what a crash left at the end of {name} was moved to {file}"
            case "admin.audit_begun" if count:
                note = f"this log began anew; the one before ended with checkpoint {count}"
            case "admin.audit_anchored":
                note = f"from here on keys/ says how {name} ends; before this line it did not"
        if note:
            notes.append(f"{one.file}:{one.line}: {note}")
    return findings, notes, missing

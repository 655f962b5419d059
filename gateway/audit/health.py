"""Whether the audit log is well, for those who run the gateway: what is said on stderr once, and shown by ``status``.

Trust: trusts what data processes tell of themselves. Pure: what is said goes to a function that is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping


class AuditHealth:
    """What is wrong with the log now, and what was found in it since the gateway started."""

    def __init__(self, log: Callable[[str], None]) -> None:
        """``log`` gets a line when something begins to be wrong, and when it is well again."""
        self._log = log
        self._signing = ""
        self._streams: dict[str, str] = {}
        self._found: list[str] = []

    def update(self, heads: Iterable[Mapping[str, object]]) -> None:
        """Take what the data processes tell with their audit heads."""
        for head in heads:
            stream = str(head.get("stream"))
            fault = (
                "" if head.get("healthy", True) else f"{stream}: lines cannot be written, {head.get('lost')} are lost"
            )
            before, self._streams[stream] = self._streams.get(stream, ""), fault
            if fault and not before:
                self._log(f"the audit log is not whole: {fault}")
            elif before and not fault:
                self._log(f"the audit log of {stream} can be written again")
            if head.get("touched"):
                self.find([f"somebody else wrote to or cut the file of {stream}; see admin.audit_foreign in the log"])

    def signed(self, fault: str) -> None:
        """A checkpoint was written (an empty ``fault``), or could not be."""
        before, self._signing = self._signing, fault
        if fault and fault != before:  # once, not every second
            self._log(f"no checkpoint can be written: {fault}")
        elif before and not fault:
            self._log("checkpoints can be written again")

    def find(self, texts: Iterable[str]) -> None:
        """Take what was found in the log and is not ours; it is shown until the gateway ends."""
        for text in texts:
            if text not in self._found:
                self._found.append(text)
                self._log(text)

    def status(self) -> dict[str, object]:
        """What ``status`` shows: whether lines and checkpoints are written, and all that is or was wrong."""
        wrong = [fault for fault in self._streams.values() if fault]
        if self._signing:
            wrong.append(f"no checkpoint can be written: {self._signing}")
        return {"healthy": not wrong and not self._found, "faults": wrong + self._found}

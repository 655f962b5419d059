"""Who may read a file that holds a secret: one rule for keys, passwords and passphrases."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["exposure"]


def exposure(path: Path, descriptor: int) -> str | None:
    """What is wrong with the permissions of an open file with a secret, with the mend; None when nothing is.

    Its owner may do anything. Its group may read it when root owns the file: so Kubernetes (``fsGroup``) and systemd
    (credentials) hand secrets to a service, and only root could have chosen that group. Who is root itself is held to
    files that nobody may write, which is how such mounts look. Everybody else may do nothing.

    Pipes and devices have no readers but who was given them, and are not looked at.
    """
    seen = os.fstat(descriptor)
    mode, is_ours = stat.S_IMODE(seen.st_mode), seen.st_uid == os.geteuid()
    is_handed_over = seen.st_uid == 0 and not mode & (0o237 if is_ours else 0o037)
    if not stat.S_ISREG(seen.st_mode) or not mode & 0o077 or is_handed_over:
        return None
    mend = f"run: chmod 600 {path}" if is_ours else "make it 0400, or 0440 with root as its owner and a group for it"
    return f"{path} is open to others (mode {mode:04o}); {mend}"

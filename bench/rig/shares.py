"""A known share of a core for a process, so that several of them can be saturated on a machine with two cores.

What two data processes can do could only be seen directly with a core for each and more for the rig. Here every data
process is bound to a core and may use a fixed share of it, by the kernel's bandwidth control (a control group with a
quota); what remains is the rig's. Two processes of a quarter each, on different cores, then stand for two cores: shared
locks, messages between processes and an uneven spread of connections are in the figure; caches and memory bandwidth
that processes would share when they run at 100 % are not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from rig.processes import BenchFailed

PERIOD_US = 10_000
GROUPS = Path("/sys/fs/cgroup")


def bandwidth_root(groups: Path = GROUPS) -> tuple[Path, int]:
    """Where groups with a processor quota are made, and the version of the kernel's interface (1 or 2).

    Raises:
        BenchFailed: there is none.
    """
    if (groups / "cpu" / "cgroup.procs").exists():
        return groups / "cpu", 1
    control = groups / "cgroup.subtree_control"
    if control.exists():
        with contextlib.suppress(OSError):
            if "cpu" not in control.read_text().split():
                control.write_text("+cpu")
        if "cpu" in control.read_text().split():
            return groups, 2
    raise BenchFailed("no control group with a processor quota can be made here: run this as root of the machine")


@contextlib.contextmanager
def limited(pids: Sequence[int], share: float, *, groups: Path = GROUPS) -> Iterator[None]:
    """Each process on a core of its own (in turn over all that there are), where it gets at most `share` of it.

    Raises:
        BenchFailed: the kernel's control groups cannot be used here.
    """
    root, version = bandwidth_root(groups)
    made: list[Path] = []
    try:
        for number, pid in enumerate(pids):
            group = root / f"rhttp-bench-{pid}"
            group.mkdir()
            made.append(group)
            quota = int(share * PERIOD_US)
            if version == 1:
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(quota))
            else:
                (group / "cpu.max").write_text(f"{quota} {PERIOD_US}")
            (group / "cgroup.procs").write_text(str(pid))
            bind(pid, number % (os.cpu_count() or 1))
        yield
    except OSError as error:
        raise BenchFailed(f"a data process cannot be given a share of a core: {error}") from None
    finally:
        for group in made:
            dissolve(group, root)


def bind(pid: int, core: int) -> None:
    """Bind all threads of a process to a core."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), {core})


def dissolve(group: Path, root: Path) -> None:
    """Let who is still in the group go back to the root, and remove it."""
    with contextlib.suppress(OSError):
        for pid in (group / "cgroup.procs").read_text().split():
            (root / "cgroup.procs").write_text(pid)
    with contextlib.suppress(OSError):
        group.rmdir()

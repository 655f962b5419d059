"""Build hook: compiles the hot modules with mypyc when RHTTP_PKI_COMPILE=1; without it the wheel is pure Python.

They are one group, since calls between compiled modules are then C calls, and that is where the gain is. A compiler
that is missing fails a build that asked for it: a slow gateway by accident would be the worse surprise.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HOT = {
    "auth": "cedar credentials ledgerlocks ledgertable nonces policy sharedledger verifier",
    "gateway.admin": "status",
    "gateway.admission": "checks request_record",
    "gateway.audit": "folding line stream writer",
    "gateway.cluster": "borrow directory frames lend lines",
    "gateway.core": "context counters peer registry",
    "gateway.exchange": "account ends exchange masters",
    "gateway.http": "fields hosts problems responses routes",
    "gateway.ingress": "acceptor connection endpoints gather metrics_acceptor queues resolve tls_acceptor",
    "gateway.pools": "hosted least_busy queue relayed slots tcp_keepalive",
    "gateway.state": "snapshot",
    "rhttp.digest": "authorization_cache formula grammar",
    "rhttp.http1": "answer client closing content fields head head_cache limits request server status target",
    "rhttp": "places timers",
    "rhttp.tls": "handshake link outbox plain record tls_link",
}
GROUP = "rhttp_pki"


class MypycBuildHook(BuildHookInterface[Any]):
    """Puts the compiled modules beside their sources into a wheel.

    Nothing compiled ever lies in the source tree, where it would win over a source that was edited since; so an
    editable install is always interpreted.
    """

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before the wheel is put together."""
        if self.target_name != "wheel" or version == "editable" or os.environ.get("RHTTP_PKI_COMPILE") != "1":
            return
        built = compile_hot(Path(self.root))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"] |= {str(path): str(path.relative_to(built)) for path in built.rglob("*.so")}


def sources() -> list[str]:
    """The modules that are compiled, as paths in the checkout."""
    return [f"{package.replace('.', '/')}/{name}.py" for package, names in HOT.items() for name in names.split()]


def compile_hot(root: Path) -> Path:
    """Run mypyc and the C compiler, a minute or two on one core; answer the folder with what they made.

    Raises:
        RuntimeError: this environment lacks what types are read from: build without isolation, in one that has all of
            requirements-dev.lock.
    """
    try:
        import OpenSSL  # noqa: F401 - any of the libraries will do: an isolated build has none
        from mypyc.build import mypycify
        from setuptools import Distribution
    except ImportError as error:
        raise RuntimeError(
            f"RHTTP_PKI_COMPILE=1 needs {error.name}: install requirements-dev.lock, then build with"
            " --no-build-isolation; or unset it for a wheel that is interpreted"
        ) from error
    work = root / "build" / "compiled"
    shutil.rmtree(work, ignore_errors=True)
    here = Path.cwd()
    os.chdir(root)
    try:
        extensions = mypycify(
            sources(), opt_level="3", debug_level="0", group_name=GROUP, target_dir="build/compiled/c"
        )
        distribution = Distribution({"name": GROUP, "ext_modules": extensions})
        distribution.script_name = "hatch_build.py"
        command = distribution.get_command_obj("build_ext")
        command.build_lib = "build/compiled/lib"
        command.build_temp = "build/compiled/objects"
        distribution.run_command("build_ext")
    finally:
        os.chdir(here)
    return work / "lib"

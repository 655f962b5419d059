# Shared by the scripts beside this file: `. scripts/lib.sh`, never run by itself.
#
# It promises: ROOT is the checkout, standard input is empty (nothing here may wait for a person), and after
# `make_venv` $VENV/bin has the pinned tools and the project itself; after `make_compiled_venv` $COMPILED/bin has them
# too, with the hot modules compiled. Works as root and as anyone else; only root
# gets missing system packages installed, everyone else is told which to ask for.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
# A folder of our own: a `.venv` in a checkout is its user's, and nothing here may touch it.
BUILD="$ROOT/.build"
VENV="$BUILD/venv"
COMPILED="$BUILD/compiled"
exec </dev/null

say() { printf '%s\n' "== $*" >&2; }

die() {
    printf '%s\n' "error: $*" >&2
    exit 1
}

# install_debian PACKAGE...: installs them when we are root on a machine with apt-get; otherwise fails with their names.
install_debian() {
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        printf '%s\n' "error: missing system packages (Debian names): $*; install them and run this again" >&2
        return 1
    fi
    say "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    if [ -z "${RHTTP_APT_UPDATED:-}" ]; then
        apt-get -qq update || return 1
        export RHTTP_APT_UPDATED=1
    fi
    apt-get -qq install --no-install-recommends -y "$@" >/dev/null
}

# need_commands COMMAND:PACKAGE...: the packages whose command is not on the PATH. The command is asked first, because
# a vendor's nodejs brings its own npm and conflicts with Debian's package of that name.
need_commands() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair##*:}")
    done
    [ "${#missing[@]}" -eq 0 ] || install_debian "${missing[@]}"
}

# need_header PATH PACKAGE: the same for a C header below /usr/include.
need_header() {
    [ -e "/usr/include/$1" ] || compgen -G "/usr/include/*/$1" >/dev/null || install_debian "$2"
}

# Prints the first Python that is new enough and can make a virtual environment with pip in it.
find_python() {
    local python
    for python in "${PYTHON:-python3.11}" python3.11 python3.12 python3.13 python3; do
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            printf '%s\n' "$python"
            return 0
        fi
    done
    return 1
}

# Makes or refreshes .build/venv from requirements-dev.lock; quick when nothing changed since the last time.
make_venv() {
    local python stamp want
    # Two runs at once in one checkout must not build the same folder: the checkout's own folder is the lock.
    exec 9<"$ROOT"
    flock 9
    stamp="$VENV/.made-from"
    want="$(cat "$ROOT/requirements-dev.lock" "$ROOT/pyproject.toml" | sha256sum) $ROOT"
    if [ ! -x "$VENV/bin/python" ] || [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
        if ! python="$(find_python)"; then
            install_debian python3 python3-venv || die "Python 3.11 or newer with the venv module is needed"
            python="$(find_python)" || die "Python 3.11 or newer with the venv module is needed"
        fi
        say "making .build/venv with $("$python" --version)"
        rm -rf "$VENV"
        mkdir -p "$BUILD"
        "$python" -m venv "$VENV"
        "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
            --require-hashes --no-deps -r "$ROOT/requirements-dev.lock"
        "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
            --no-deps --no-build-isolation --editable "$ROOT"
        printf '%s\n' "$want" >"$stamp"
    fi
    flock -u 9
    exec 9<&-
}

# Makes or refreshes .build/compiled: the same packages, and the project as the compiled wheel that `pip install .` makes
# (hatch_build.py), so that what is tested is what users get. Quick when no source changed; otherwise some minutes. Fails
# with one clear line where it cannot be done, and leaves nothing half made: whoever calls goes on interpreted.
make_compiled_venv() {
    local python stamp want dist
    exec 8<"$ROOT"
    flock 8
    stamp="$COMPILED/.made-from"
    want="$(
        cd "$ROOT" &&
            find pki auth rhttp gateway README.md LICENSE pyproject.toml hatch_build.py requirements-dev.lock \
                -type f -not -path '*/__pycache__/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum
    ) $ROOT"
    if [ ! -x "$COMPILED/bin/python" ] || [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
        if ! python="$(find_python)" || ! need_commands gcc:gcc || ! need_header stdio.h libc6-dev ||
            ! need_python_header "$python"; then
            not_compiled
            return 1
        fi
        say "making .build/compiled with $("$python" --version), some minutes"
        rm -rf "$COMPILED"
        mkdir -p "$BUILD"
        dist="$(mktemp -d)"
        if ! { "$python" -m venv "$COMPILED" &&
            "$COMPILED/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
                --require-hashes --no-deps -r "$ROOT/requirements-dev.lock" &&
            RHTTP_PKI_COMPILE=1 build_wheel "$COMPILED/bin/python" "$ROOT" "$dist" &&
            "$COMPILED/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
                --no-deps --no-index "$dist"/*.whl; }; then
            rm -rf "$COMPILED" "$dist"
            not_compiled
            return 1
        fi
        rm -rf "$dist"
        printf '%s\n' "$want" >"$stamp"
    fi
    flock -u 8
    exec 8<&-
}

# build_wheel PYTHON PROJECT FOLDER: the project's wheel, by pip's isolated build.
build_wheel() {
    "$1" -m pip wheel --quiet --disable-pip-version-check --no-input --no-deps --wheel-dir "$3" "$2"
}

not_compiled() {
    flock -u 8
    exec 8<&-
    say "no compiled build on this machine: what follows runs interpreted"
}

# need_python_header PYTHON: the headers of exactly this Python.
need_python_header() {
    local header
    header="$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"
    [ -e "$header" ] || install_debian python3-dev || return 1
    [ -e "$header" ] || {
        printf '%s\n' "error: $header is missing; install the headers of $1" >&2
        return 1
    }
}

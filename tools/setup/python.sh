#!/bin/sh
# Creates the environment of uv.lock: python.sh VENV GROUP...
#
# Needs a supported Python with venv or pip, nothing else. uv is installed into .tools/; it never downloads an interpreter.
# PYTHON=... chooses the interpreter, UV=... an installed uv. Package indexes come from the environment and from the
# configuration of pip and uv.
set -eu

UV_VERSION=0.13.9
OLDEST=11 NEWEST=14 # Python 3.x

cd "$(dirname "$0")/../.."
venv=$1
shift

fail() {
    echo "millstream: $*" >&2
    exit 1
}

# The minor version of a Python 3 interpreter; nothing for another program.
minor() {
    "$1" -c 'import sys; print(sys.version_info[1] if sys.version_info[0] == 3 else 0)' 2>/dev/null || true
}

# The newest supported interpreter, or the one that the user names.
choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        found=$(minor "$PYTHON")
        [ -n "$found" ] || fail "PYTHON=$PYTHON does not run; name a Python 3.$OLDEST or newer."
        [ "$found" -ge $OLDEST ] || fail "PYTHON=$PYTHON is older than Python 3.$OLDEST, which millstream needs at least."
        python=$PYTHON
        return
    fi
    python='' best=0 seen=''
    for candidate in python3 python3.13 python3.12 python3.11; do
        found=$(minor "$candidate")
        [ -n "$found" ] || continue
        seen="$seen $candidate (3.$found)"
        if [ "$found" -ge $OLDEST ] && [ "$found" -le $NEWEST ] && [ "$found" -gt "$best" ]; then
            python=$candidate best=$found
        fi
    done
    [ -n "$python" ] ||
        fail "needs Python 3.$OLDEST to 3.$NEWEST and found${seen:- none}; install one, or name it: make setup PYTHON=/path/to/python3."
}

# uv of our version in .tools/, by venv or else by pip --target.
install_uv() {
    home="$PWD/.tools/uv-$UV_VERSION"
    uv="$home/bin/uv"
    ! "$uv" --version >/dev/null 2>&1 || return 0
    rm -rf "$home"
    mkdir -p .tools
    log="$PWD/.tools/uv-setup.log"
    if "$python" -m venv "$home" >"$log" 2>&1; then
        "$home/bin/python" -m pip install --quiet "uv==$UV_VERSION" >>"$log" 2>&1 || fail_uv
    else
        rm -rf "$home"
        "$python" -m pip --version >>"$log" 2>&1 ||
            fail "$python has neither venv nor pip to fetch uv with; install one of them (Debian: apt install python3-venv), or give UV=/path/to/uv."
        "$python" -m pip install --quiet --target "$home" "uv==$UV_VERSION" >>"$log" 2>&1 || fail_uv
    fi
}

fail_uv() {
    rm -rf "$home"
    cat "$log" >&2
    fail "could not install uv $UV_VERSION; see pip's output above."
}

# The user's own package index, configured for uv or pip. The lock names PyPI's addresses, so packages then come by an
# export of the lock, with the same hashes.
choose_index() {
    index=${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-${UV_INDEX:-${UV_EXTRA_INDEX_URL:-}}}}
    [ -z "$index" ] || return 0
    index=${PIP_INDEX_URL:-$("$python" -m pip config get global.index-url 2>/dev/null || true)}
    [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
}

sync() {
    for group in "$@"; do
        set -- "$@" --group "$group"
        shift
    done
    if [ -z "$index" ]; then
        "$uv" sync --quiet --frozen --no-default-groups "$@"
        return
    fi
    [ -x "$venv/bin/python" ] || "$uv" venv --quiet "$venv"
    wanted=$(mktemp)
    trap 'rm -f "$wanted"' EXIT
    "$uv" export --quiet --frozen --no-default-groups --no-emit-project --output-file "$wanted" "$@" >/dev/null
    "$uv" pip sync --quiet --python "$venv/bin/python" --require-hashes "$wanted"
    "$uv" pip install --quiet --python "$venv/bin/python" --no-deps --editable .
}

export UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT="$venv" UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}"
[ -n "${SSL_CERT_FILE:-}" ] || [ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="$PIP_CERT"

# An existing environment keeps its interpreter, unless the user names another.
if [ -z "${PYTHON:-}" ] && [ -x "$venv/bin/python" ]; then
    found=$(minor "$venv/bin/python")
    [ -z "$found" ] || [ "$found" -lt $OLDEST ] || kept=yes
fi
if [ -n "${kept:-}" ]; then python=$venv/bin/python; else choose_python; fi
if [ -n "${UV:-}" ]; then uv=$UV; else install_uv; fi
[ -n "${kept:-}" ] || UV_PYTHON=$("$python" -c 'import sys; print(sys.executable)')
[ -z "${UV_PYTHON:-}" ] || export UV_PYTHON
choose_index
rm -f "$venv"/.setup-*
sync "$@"
echo "millstream: $venv is ready ($("$venv/bin/python" --version), groups: $*)."

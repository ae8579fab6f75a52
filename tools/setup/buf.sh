#!/bin/sh
# Installs buf into .tools/ by npm, from the lock file beside this script; `buf.sh lint` then checks protos/, also against
# each kept version (docs/adr/0014). Without npm it prints that and skips; `make protos-check` still checks by protoc.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
home=.tools/buf
buf=$home/node_modules/.bin/buf

if ! command -v npm >/dev/null 2>&1 || ! npm --version >/dev/null 2>&1; then
    echo 'millstream: SKIPPED buf lint and buf format: it is installed by npm, which is not here.' >&2
    exit 0
fi

if ! cmp -s "$here/package-lock.json" "$home/package-lock.json" || ! "$buf" --version >/dev/null 2>&1; then
    rm -rf "$home"
    mkdir -p "$home"
    cp "$here/package.json" "$here/package-lock.json" "$home/"
    if ! npm ci --prefix "$home" --no-audit --no-fund --loglevel=error >"$home/setup.log" 2>&1; then
        cat "$home/setup.log" >&2
        rm -rf "$home"
        echo 'millstream: npm could not install buf: see its output above.' >&2
        exit 1
    fi
fi

if [ "${1:-}" = lint ]; then
    "$buf" lint
    "$buf" format --diff --exit-code
    for kept in tests/contract/old_messages/*/protos.binpb; do
        [ -f "$kept" ] || continue # no version is kept yet
        "$buf" breaking --against "$kept"
    done
    echo 'buf: the protos are clean, and break no earlier version.'
fi

#!/bin/sh
# Makes this machine ready for `make demo` (argument: run) or `make test` (argument: test):
# Debian packages that are missing, .venv with the pinned and hashed requirements, and anchord itself in it, editable.
# What is there already is left alone, so that a second run takes no time. Without root nothing is installed.
set -eu
cd "$(dirname "$0")/.."

purpose=${1:-run}
# Debian's own Python before any other: it is built with profile-guided optimisation, and a handover feels the difference.
python=${PYTHON:-/usr/bin/python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || python=${PYTHON:-python3}
stamp=.venv/.ready-for-$purpose
PATH=$PATH:/usr/sbin:/sbin
export PATH

# The command that shows that a package is there, and the package.
tools="ip:iproute2 nft:nftables ping:iputils-ping iperf3:iperf3"
requirements=requirements.txt
if [ "$purpose" = test ]; then
    tools="$tools sysctl:procps tshark:tshark"
    requirements=requirements-dev.txt
fi

say() { echo "setup: $*" >&2; }

missing_packages() {
    for tool in $tools; do
        command -v "${tool%%:*}" >/dev/null || echo "${tool#*:}"
    done
    command -v "$python" >/dev/null || echo python3
    # Debian splits the standard library: without python3-venv there is no ensurepip.
    [ -x .venv/bin/python ] || "$python" -c 'import ensurepip' 2>/dev/null || echo python3-venv
}

# Changes whenever .venv has to be made anew or brought up to date.
fingerprint() {
    { cat "$requirements" pyproject.toml scripts/setup.sh && pwd && .venv/bin/python -V; } 2>/dev/null | sha256sum
}

is_ready() {
    [ -x .venv/bin/anchord ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ]
}

packages=$(missing_packages | sort -u | tr '\n' ' ')

if [ "$(id -u)" != 0 ]; then
    say "missing: root (network namespaces, routes and raw sockets need it)"
    [ -z "$packages" ] || say "missing Debian packages: $packages"
    is_ready || say "missing: .venv with what $requirements lists"
    say "nothing was installed; run this as root"
    exit 1
fi

[ -n "$packages" ] || ! is_ready || exit 0

# One at a time: `make demo` and `make test` may have been started together.
exec 9<.
flock 9

if [ -n "$packages" ]; then
    if ! command -v apt-get >/dev/null; then
        say "missing: $packages(Debian's names; there is no apt-get here to install them with)"
        exit 1
    fi
    say "installing Debian packages: $packages"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update </dev/null >&2
    # shellcheck disable=SC2086  # a list
    apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends $packages </dev/null >&2
fi

is_ready && exit 0

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    say "missing: Python 3.11 or later ($python is $("$python" -V 2>&1)); name another one by PYTHON=..."
    exit 1
}
say "installing $requirements into .venv"
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    "$python" -m venv --clear .venv
fi
pip="env PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip --quiet --no-input"
$pip install --require-hashes -r "$requirements"
# The build backend came with the requirements, pinned like everything else: nothing more is fetched here.
$pip install --no-deps --no-build-isolation --no-index --editable .
fingerprint >"$stamp"

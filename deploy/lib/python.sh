# shellcheck shell=bash
# A Python environment, exactly as `uv.lock` says: `.venv` in the clone, else ENVIRONMENT. Needs say.sh and packages.sh.

ENVIRONMENT=''
PARTS=(--all-extras)
# How pip installs the project itself: a link to the clone, or a copy.
PROJECT=(--editable)

# python_environment ROOT [uv's words for what goes in, such as --no-dev]
python_environment() {
    local root=$1 python
    shift
    take_over_certificates
    python=$(find_python) || { install_python && python=$(find_python); } ||
        stop_with 'No Python 3.11 or newer.' 'Install one (Debian 12, Ubuntu 24.04: python3; Ubuntu 22.04: python3.11) and run this again.'
    can_make_environments "$python" || need_packages "$(venv_package "$python")"
    knows_time_zones "$python" || need_packages tzdata
    sync_with_uv "$root" "$python" "$@" || install_with_pip "$root" "$python" "$@" || return 1
    compile_bytecode "$root"
}

# Also where PYTHONDONTWRITEBYTECODE is set: without bytecode every `aima` compiles what it imports, and takes twice the time.
compile_bytecode() {
    local environment=${ENVIRONMENT:-$1/.venv}
    "$environment/bin/python" -m compileall -q -j 0 "$environment/lib" "$1/aima_core" "$1/aima_worker" "$1/aima_api" ||
        printf 'Some files have no bytecode; the commands work, and start slower.\n'
}

find_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$name" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

install_python() {
    need_packages python3
    find_python >/dev/null || { package_known python3.11 && need_packages python3.11 python3.11-venv; }
}

can_make_environments() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# Celery asks for UTC by name.
knows_time_zones() { "$1" -c 'import zoneinfo; zoneinfo.ZoneInfo("UTC")' 2>/dev/null; }

venv_package() { "$1" -c 'import sys; print(f"python{sys.version_info[0]}.{sys.version_info[1]}-venv")'; }

sync_with_uv() {
    local root=$1 python=$2 uv
    uv=$(private_uv "$root" "$python") || return 1
    (cd "$root" && TMPDIR=$root/var UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=${ENVIRONMENT:-.venv} VIRTUAL_ENV='' \
        "$uv" sync --frozen --compile-bytecode "${PARTS[@]}" --python "$python" "${@:3}")
}

# uv in an environment of its own, so that it never meets the project's.
private_uv() {
    local tools=$1/var/uv
    if ! "$tools/bin/uv" --version >&2; then
        "$2" -m venv --clear "$tools" >&2 || return 1
        "$tools/bin/python" -m pip install --quiet uv >&2 || return 1
    fi
    printf '%s/bin/uv' "$tools"
}

# Where uv cannot reach what it wants (a mirror that only pip knows of): the same versions, by pip.
install_with_pip() {
    printf 'uv could not; trying pip.\n'
    local root=$1 python=$2 wanted=$1/var/requirements.txt environment=${ENVIRONMENT:-$1/.venv}
    mkdir -p "$root/var"
    pinned_versions "$root" "$wanted" ${4:+"$3"} || printf '%s[all-in-one]\n' "$root" >"$wanted"
    "$python" -m venv --clear "$environment" &&
        "$environment/bin/python" -m pip install --quiet --requirement "$wanted" &&
        "$environment/bin/python" -m pip install --quiet --no-deps "${PROJECT[@]}" "$root"
}

pinned_versions() {
    local root=$1 file=$2
    (cd "$root" && "$root/var/uv/bin/uv" export --quiet --frozen "${PARTS[@]}" --no-emit-project --no-hashes \
        "${@:3}" --output-file "$file")
}

# Whoever taught this machine or pip an authority of their own means uv too.
take_over_certificates() {
    if [[ -n ${SSL_CERT_FILE:-} ]]; then return 0; fi
    if [[ -n ${PIP_CERT:-} ]]; then
        export SSL_CERT_FILE=$PIP_CERT
    elif [[ -s /etc/ssl/certs/ca-certificates.crt ]]; then
        export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-true}
    fi
}

# shellcheck shell=bash
# The distribution's packages, and doing things as root. Needs say.sh and turns.sh.

as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        stop_with "Only root may do this: $*" 'Run this as root, or install sudo.'
    fi
}

# need_packages PACKAGE…: install those that are missing, and nothing they merely recommend.
need_packages() {
    local missing=() package
    for package in "$@"; do
        package_installed "$package" || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null ||
        stop_with "Missing: ${missing[*]}" 'This machine has no apt-get: install them with its own tool and run this again.'
    # One broken source of the operator's own must not matter as long as the packages can be had.
    apt_get update || true
    apt_get install --no-install-recommends "${missing[@]}"
}

package_installed() {
    [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# Whether the distribution has a package that this machine could install.
package_known() { apt-cache show --no-all-versions "$1" >/dev/null 2>&1; }

apt_get() {
    alone as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get --yes --quiet -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" </dev/null
}

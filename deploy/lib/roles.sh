# shellcheck shell=bash
# A role of this machine, worker, api or flower, installed for keeps. Needs say.sh, packages.sh, python.sh.
#
# Everything is checked before anything is changed. A release is complete before `current` is switched to it, by one
# rename; if its unit does not come up, `current` is switched back. So an interrupted run leaves the release before in use,
# and can be run again.

PREFIX=/opt/aima
SETTINGS=/etc/aima
UNITS=/etc/systemd/system
ROLES=(worker api flower)
MEGABYTES_NEEDED=600
# A unit that has been active for so long has read its settings and reached Redis, or reported why not.
STAYS_UP_FOR=3
USER_NAME=aima

install_role() {
    local role=$1 release
    check_machine "$role"
    release=$(release_name "$role")
    announce_plan "$role" "$release"
    if [[ -n $CHECK ]]; then return 0; fi
    step "User $USER_NAME" 'Look at the log.' make_user
    build_release "$role" "$release"
    step "Settings in $SETTINGS" 'Look at the log; a full disk is the usual reason.' write_settings "$role"
    step 'The settings are valid' "Correct them in $SETTINGS, and run this again." validate_settings "$role" "$release"
    activate "$role" "$release"
    explain_role "$role"
}

uninstall_role() {
    local role=$1
    is_root || stop_with 'This needs root.' 'Run it with sudo.'
    if [[ -n $PURGE && $role == worker ]] && compgen -G '/var/lib/aima/processes/*/running.json' >/dev/null; then
        stop_with 'Native engines run here, and their records are below /var/lib/aima.' 'Stop their services first: aima service stop ID'
    fi
    say "Stops and removes $(unit "$role")$(installed_elsewhere "$role" || printf ', and %s' "$PREFIX")."
    if [[ -n $PURGE ]]; then
        say "Removes its settings and keys in $SETTINGS, and its state in $(state_of "$role")."
    else
        say "Keeps its settings and keys in $SETTINGS, and its state in $(state_of "$role")."
    fi
    if [[ $role == worker ]]; then say 'Engines keep running.'; fi
    if [[ -n $CHECK ]]; then return 0; fi
    step "$(unit "$role") is removed" 'Look at the log.' remove_role "$role"
}

# Checks ---------------------------------------------------------------------------------------------------------------

check_machine() {
    local role=$1 free
    begin 'Checks' 'Nothing was changed.'
    is_root || stop_with 'This needs root.' 'Run it with sudo.'
    command -v systemctl >/dev/null || stop_with 'This machine has no systemd.' 'Run `aima worker` or `aima api` by its own init system.'
    python_is_usable || stop_with 'No Python 3.11 or newer that makes environments.' 'Install it (Debian 12, Ubuntu 24.04: python3 and python3-venv).'
    free=$(df --output=avail --block-size=1M "$(nearest "$PREFIX")" | tail -n 1)
    ((free >= MEGABYTES_NEEDED)) || stop_with "Only $free MB are free for $PREFIX; $MEGABYTES_NEEDED are needed." 'Free some.'
    [[ -n $REDIS_URL || -s $(credential "$role" redis.url) ]] ||
        stop_with "There is no address of Redis." "Add --redis-file FILE, whose text is such as redis://:PASSWORD@HOST:6379/0"
    [[ $role != worker || -n $TRUSTED_KEY || -s $(credential "$role" trusted_keys) ]] ||
        stop_with 'There is no key to verify orders with.' 'Add --trusted-key KEY, as `deploy/install --role api` printed it.'
    [[ ! -L $UNITS/$(unit "$role") ]] || stop_with "$(unit "$role") is a link, such as that of a masked unit." "systemctl unmask $(unit "$role")"
    finish
}

is_root() { ((EUID == 0)); }

python_is_usable() {
    local python
    python=$(find_python) && { can_make_environments "$python" || command -v apt-get >/dev/null; }
}

nearest() {
    local path=$1
    until [[ -d $path ]]; do path=$(dirname "$path"); done
    printf '%s' "$path"
}

announce_plan() {
    local role=$1 release=$2
    if [[ -e $PREFIX/releases/$release/complete ]]; then
        say "Release $release is installed in $PREFIX."
    else
        say "Installs release $release in $PREFIX/releases, for the roles: $(roles_with "$role")."
    fi
    getent passwd "$USER_NAME" >/dev/null || say "Creates the system user $USER_NAME."
    [[ -e $SETTINGS/$role.env ]] || say "Writes $SETTINGS/$role.env."
    if [[ -n $REDIS_URL ]]; then say "Writes $(credential "$role" redis.url), for root only."; fi
    if [[ -n $TRUSTED_KEY ]]; then say "Writes $(credential "$role" trusted_keys), for root only."; fi
    [[ $role != api || -s $(credential api signing_key) ]] || say "Generates $(credential api signing_key), for root only."
    if is_booted; then
        say "Enables $(unit "$role"), and starts it, or restarts it if anything has changed."
    else
        say "Enables $(unit "$role"). systemd does not run here, so it starts at the next boot."
    fi
}

# Steps ----------------------------------------------------------------------------------------------------------------

make_user() {
    getent passwd "$USER_NAME" >/dev/null ||
        useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$USER_NAME"
}

# The name is a digest of what goes in, so that the same sources for the same roles are never installed twice.
release_name() {
    (
        cd "$ROOT"
        {
            roles_with "$1"
            find aima_core aima_worker aima_api catalog pyproject.toml uv.lock -type f ! -path '*/__pycache__/*' -print0 |
                LC_ALL=C sort --zero-terminated | xargs --null sha256sum
        } | sha256sum | cut -c 1-12
    )
}

roles_with() {
    local role named=()
    for role in "${ROLES[@]}"; do
        if [[ $role == "$1" || -e $UNITS/$(unit "$role") ]]; then named+=("$role"); fi
    done
    printf '%s\n' "${named[*]}"
}

build_release() {
    local role=$1 release=$2 each
    if [[ -e $PREFIX/releases/$release/complete ]]; then return 0; fi
    ENVIRONMENT=$PREFIX/releases/$release PARTS=() PROJECT=()
    for each in $(roles_with "$role"); do PARTS+=(--extra "$each"); done
    step "Release $release in $PREFIX" "$NETWORK_ADVICE" make_release
}

make_release() {
    rm -rf "$ENVIRONMENT"
    install --directory --mode 0755 "$PREFIX" "$PREFIX/releases"
    (umask 022 && python_environment "$ROOT" --no-dev --no-editable)
    chmod -R go+rX "$ENVIRONMENT"
    "$ENVIRONMENT/bin/aima" --version
    touch "$ENVIRONMENT/complete"
}

write_settings() {
    local role=$1
    install --directory --mode 0755 "$SETTINGS"
    install --directory --mode 0700 "$SETTINGS/credentials" "$SETTINGS/credentials/$role"
    [[ -e $SETTINGS/$role.env ]] || install --mode 0644 "$ROOT/deploy/systemd/$role.env" "$SETTINGS/$role.env"
    if [[ -n $REDIS_URL ]]; then put_credential "$role" redis.url "$REDIS_URL"; fi
    if [[ -n $TRUSTED_KEY ]]; then put_credential "$role" trusted_keys "[\"$TRUSTED_KEY\"]"; fi
    if [[ $role == api && ! -s $(credential api signing_key) ]]; then
        put_credential api signing_key "$(od --address-radix=n --format=x1 --read-bytes=32 /dev/urandom | tr -d ' \n')"
    fi
}

# Never readable for others, not even for a moment; a crash leaves the previous value or the new one.
put_credential() {
    local file
    file=$(credential "$1" "$2")
    (umask 077 && printf '%s\n' "$3" >"$file.new" && mv -f "$file.new" "$file")
}

# As systemd will hand them over, so that a mistake is found before the unit is switched.
validate_settings() {
    local role=$1 release=$2 staged file
    staged=$(mktemp --directory)
    for file in "$SETTINGS/credentials/$role"/*; do cp "$file" "$staged/aima_${file##*/}"; done
    (
        set -a
        # shellcheck disable=SC1090
        source "$SETTINGS/$role.env"
        CREDENTIALS_DIRECTORY=$staged exec "$PREFIX/releases/$release/bin/python" -c \
            'from aima_core.settings import load_settings; from aima_core.trust.keys import key_ring; key_ring(load_settings())'
    ) && rm -rf "$staged" || { rm -rf "$staged" && return 1; }
}

activate() {
    local role=$1 release=$2 before
    before=$(readlink "$PREFIX/current" || true)
    if [[ $before == "releases/$release" ]] && is_unchanged "$role"; then
        say "$(unit "$role") runs release $release already."
        return 0
    fi
    step "$(unit "$role") is enabled" 'Look at the log.' switch_to "$role" "releases/$release"
    if ! is_booted; then return 0; fi
    begin "$(unit "$role") is up" "journalctl --unit $(unit "$role") shows why not."
    if start_units "$role" >>"$LOG" 2>&1; then
        finish
        remove_old_releases "$before"
        return 0
    fi
    journalctl --unit "$(unit "$role")" --lines 12 --no-pager --output cat >>"$LOG" 2>&1 || true
    if [[ -n $before && $before != "releases/$release" && -d $PREFIX/$before ]]; then
        switch_to "$role" "$before" >>"$LOG" 2>&1
        start_units "$role" >>"$LOG" 2>&1 || true
        printf 'The release before, %s, is in use again.\n' "${before#releases/}" >>"$LOG"
    fi
    exit 1
}

is_unchanged() {
    [[ -z $REDIS_URL$TRUSTED_KEY ]] && cmp --quiet "$ROOT/deploy/systemd/$(unit "$1")" "$UNITS/$(unit "$1")" &&
        { ! is_booted || systemctl --quiet is-active "$(unit "$1")"; }
}

switch_to() {
    install -D --mode 0644 "$ROOT/deploy/systemd/$(unit "$1")" "$UNITS/$(unit "$1")"
    ln --symbolic --force --no-dereference "$2" "$PREFIX/current.new"
    mv --no-target-directory "$PREFIX/current.new" "$PREFIX/current"
    ln --symbolic --force "$PREFIX/current/bin/aima" /usr/local/bin/aima
    if is_booted; then systemctl daemon-reload; fi
    systemctl enable "$(unit "$1")"
}

# The other roles here share the release.
start_units() {
    local role restarts
    systemctl restart "$(unit "$1")" || return 1
    for role in "${ROLES[@]}"; do
        if [[ $role != "$1" ]] && systemctl --quiet is-active "$(unit "$role")"; then systemctl restart "$(unit "$role")"; fi
    done
    restarts=$(systemctl show --property NRestarts --value "$(unit "$1")")
    sleep "$STAYS_UP_FOR"
    systemctl --quiet is-active "$(unit "$1")" &&
        [[ $(systemctl show --property NRestarts --value "$(unit "$1")") == "$restarts" ]]
}

# Kept are the release in use, the one before, and those from which processes still run, such as native engines.
remove_old_releases() {
    local release
    for release in "$PREFIX/releases"/*; do
        case releases/${release##*/} in "$(readlink "$PREFIX/current")" | "$1") continue ;; esac
        grep --quiet --fixed-strings --files-with-matches "$release/" /proc/[0-9]*/cmdline 2>/dev/null || rm -rf "$release"
    done
}

explain_role() {
    local role=$1 key
    case $role in
        api)
            key=$("$PREFIX/current/bin/python" -c 'import sys
from pydantic import SecretStr
from aima_core.trust.keys import SigningKey
print(SigningKey(SecretStr(sys.stdin.read().strip())).public)' <"$(credential api signing_key)")
            say "The public key, for each host: deploy/install --role worker --trusted-key '$key' --redis-file FILE"
            ;;
        worker) say 'aima host list, where an API node runs, shows this host.' ;;
        flower) say 'Flower listens on 127.0.0.1:5555; its password is in /etc/aima/credentials/flower or /var/lib/aima-flower.' ;;
    esac
    say "Settings: $SETTINGS/$role.env and $SETTINGS/credentials/$role. Log: journalctl --unit $(unit "$role")"
    if ! is_booted; then say 'systemd does not run here: nothing was started.'; fi
}

remove_role() {
    local role=$1
    if is_booted; then
        systemctl disable --now "$(unit "$role")" || true
    else
        systemctl disable "$(unit "$role")" || true
    fi
    rm -f "$UNITS/$(unit "$role")"
    if is_booted; then systemctl daemon-reload && systemctl reset-failed "$(unit "$role")" || true; fi
    if [[ -n $PURGE ]]; then
        rm -rf "$SETTINGS/$role.env" "$SETTINGS/credentials/$role" "$(state_of "$role")"
        rmdir --ignore-fail-on-non-empty "$SETTINGS/credentials" "$SETTINGS" || true
    fi
    if installed_elsewhere "$role"; then return 0; fi
    rm -rf "$PREFIX"
    if [[ -L /usr/local/bin/aima ]]; then rm -f /usr/local/bin/aima; fi
    if [[ -n $PURGE ]] && getent passwd "$USER_NAME" >/dev/null; then userdel "$USER_NAME"; fi
}

# Names ----------------------------------------------------------------------------------------------------------------

unit() { printf 'aima-%s.service' "$1"; }
credential() { printf '%s/credentials/%s/%s' "$SETTINGS" "$1" "$2"; }
state_of() { if [[ $1 == worker ]]; then printf /var/lib/aima; else printf '/var/lib/aima-%s' "$1"; fi; }
is_booted() { [[ -d /run/systemd/system ]]; }

# installed_elsewhere ROLE: whether another role is installed on this machine.
installed_elsewhere() {
    local role
    for role in "${ROLES[@]}"; do
        if [[ $role != "$1" && -e $UNITS/$(unit "$role") ]]; then return 0; fi
    done
    return 1
}

# shellcheck shell=bash
# The Docker Engine of this machine: install it, have it running, give it back. Needs say.sh, packages.sh, turns.sh.

ENGINE_ANSWERS_WITHIN=60
# The numbers of CAP_NET_ADMIN and CAP_SYS_ADMIN: without them no engine can run, as inside most containers.
ENGINE_NEEDS_CAPABILITIES=(12 21)

# engine_answers [PREFIX…]: whether an engine answers me, or whom PREFIX makes of me.
engine_answers() {
    command -v docker >/dev/null && "$@" docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

# engine_ready PIDFILE: install the engine and have it running. PIDFILE is written if it had to be started by hand.
engine_ready() {
    if engine_answers; then return 0; fi
    engine_could_run || return 1
    engine_install
    if engine_answers as_root; then return 0; fi
    if engine_lives && engine_comes_up; then return 0; fi
    if [[ -d /run/systemd/system ]]; then
        engine_start_by_systemd
    else
        engine_start_by_hand "$1"
    fi
}

engine_could_run() {
    local held bit
    held=$(as_root sed -n 's/^CapEff:\t/0x/p' /proc/self/status) || return 1
    for bit in "${ENGINE_NEEDS_CAPABILITIES[@]}"; do
        if ! ((held >> bit & 1)); then
            printf 'This machine may not run one: it is itself an unprivileged container.\n'
            return 1
        fi
    done
}

engine_install() {
    if ! command -v dockerd >/dev/null; then need_packages docker.io; fi
    if ! command -v docker >/dev/null; then need_packages docker-cli; fi
    if ! command -v iptables >/dev/null; then need_packages iptables; fi
}

# engine_lives: a dockerd runs already, if only just; a package may have started it.
engine_lives() { [[ -s /var/run/docker.pid ]] && as_root kill -0 "$(</var/run/docker.pid)" 2>/dev/null; }

engine_start_by_systemd() {
    as_root systemctl start docker && engine_comes_up && return 0
    as_root journalctl --unit docker --lines 5 --no-pager --output cat
    return 1
}

engine_start_by_hand() {
    local log=$1.log
    # shellcheck disable=SC2016 # the inner shell expands them
    alone as_root sh -c 'setsid dockerd >"$1" 2>&1 </dev/null & printf %s $! >"$2"' - "$log" "$1"
    if engine_comes_up "$1"; then return 0; fi
    engine_stop "$1"
    as_root tail -n 5 "$log" | sed 's/.*msg="\?//'
    return 1
}

# engine_comes_up [PIDFILE]: wait for its answer, no longer than its process lives.
engine_comes_up() {
    local deadline=$((SECONDS + ENGINE_ANSWERS_WITHIN))
    while ((SECONDS < deadline)); do
        if engine_answers as_root; then return 0; fi
        if [[ -n ${1:-} ]] && ! as_root kill -0 "$(<"$1")" 2>/dev/null; then return 1; fi
        sleep 0.2
    done
    return 1
}

# engine_stop PIDFILE: end the engine that was started by hand, and wait until it is gone.
engine_stop() {
    [[ -s $1 ]] || return 0
    local pid deadline=$((SECONDS + 30))
    pid=$(<"$1")
    as_root kill "$pid" 2>/dev/null || true
    while as_root kill -0 "$pid" 2>/dev/null && ((SECONDS < deadline)); do sleep 0.2; done
    as_root kill -KILL "$pid" 2>/dev/null || true
    as_root rm -f "$1" "$1.log"
}

# engine_shut_to_me: an engine runs, and only its group may talk to it.
engine_shut_to_me() { ((EUID != 0)) && ! engine_answers && getent group docker >/dev/null && engine_answers as_root; }

# join_engine_group COMMAND…: become that command as a member of the engine's group, for this once.
join_engine_group() {
    local groups
    groups=$(id -G | tr ' ' ',')
    exec sudo -- setpriv --reuid "$(id -u)" --regid "$(id -g)" --groups "$groups,$(getent group docker | cut -d: -f3)" \
        env -u SUDO_USER -u SUDO_UID -u SUDO_GID -u SUDO_COMMAND HOME="$HOME" USER="${USER:-$(id -un)}" PATH="$PATH" "$@" \
        7>&- 8>&- 9>&- # sudo stays above it, and would hold this run's locks
}

# put_back_shared: what runs brought into SHARED's care goes: the images listed there, the engine started by hand.
put_back_shared() {
    if [[ -s $SHARED/images ]]; then sort -u "$SHARED/images" | xargs docker image rm; fi
    engine_stop "$SHARED/dockerd.pid"
    rm -rf "$SHARED"
}

# shellcheck shell=bash
# How the project's commands speak: a line per step with the time it took, and when one fails its last words and
# what to do next. Whoever sources this has set LOG, the file that takes what the steps themselves print.

STEP='' ADVICE='' STEP_BEGAN=0
exec 7>&2 # a trap runs with the redirections of whatever failed; a failure must reach the person all the same

# step TITLE ADVICE COMMAND…: carry it out quietly. Never call it in a condition: bash would then go on after errors.
step() {
    begin "$1" "$2"
    "${@:3}" >>"$LOG" 2>&1
    finish
}

begin() {
    STEP=$1 ADVICE=$2 STEP_BEGAN=$(now)
    printf '## %s\n' "$STEP" >>"$LOG"
    if [[ -t 1 ]]; then printf '  %s …' "$STEP"; fi
}

finish() {
    if [[ -t 1 ]]; then printf '\r\033[K'; fi
    printf '✓ %s (%s)\n' "$STEP" "$(since "$STEP_BEGAN")"
    STEP=''
}

# give_up SENTENCE [SIGN]: end the step without its success, and go on.
give_up() {
    if [[ -t 1 ]]; then printf '\r\033[K'; fi
    printf '%s %s (%s)\n' "${2:-–}" "$1" "$(since "$STEP_BEGAN")"
    STEP=''
}

say() { printf '  %s\n' "$*"; }

# stop_with SENTENCE ADVICE: end the command for a reason that is known.
stop_with() {
    ADVICE=$2
    printf '%s\n' "$1" >>"$LOG"
    STEP=${STEP:-$1}
    exit 1
}

# explain_failure: what the trap on EXIT calls first when the command failed. Says nothing where a child command has.
explain_failure() {
    [[ -n $STEP ]] || return 0
    {
        if [[ -t 7 ]]; then printf '\r\033[K'; fi
        printf '✗ %s\n' "$STEP"
        sed -n 'H; /^## /h; ${x; p}' "$LOG" | tail -n +2 | tail -n 15 | sed 's/^/  │ /'
        printf '  → %s\n' "$ADVICE"
        printf '  → everything it printed: %s\n' "$LOG"
    } >&7
}

# Milliseconds, for `since`.
now() { printf '%s' "$((${EPOCHREALTIME/[.,]/} / 1000))"; }

since() {
    local taken=$(($(now) - $1))
    if ((taken < 60000)); then
        printf '%d.%d s' $((taken / 1000)) $((taken % 1000 / 100))
    else
        printf '%d min %d s' $((taken / 60000)) $((taken % 60000 / 1000))
    fi
}

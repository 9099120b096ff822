# shellcheck shell=bash
# Several runs on one machine: they set up one after another, and the last to leave puts out the lights.
#
# What a run brought that others may be using meanwhile (a Docker Engine started by hand, images) is noted in SHARED,
# and taken away by whichever run ends last. Descriptor 8 is a turn, 9 being here; nothing that outlives a run may
# inherit them.

SHARED=${TMPDIR:-/tmp}/aima-setup-$(id -u)
TURN_WITHIN=900

arrive() {
    local tries=0
    # Race: until the lock is held here, the last to leave may remove the directory at any moment: then once more.
    until [[ $SHARED/here -ef /proc/self/fd/9 ]]; do
        if { mkdir -m 700 -p "$SHARED" && [[ -O $SHARED && ! -L $SHARED ]] && exec 9>>"$SHARED/here"; } 2>/dev/null; then
            flock --shared --timeout "$TURN_WITHIN" 9
        else
            ((++tries < 20)) || stop_with "$SHARED is not mine, or cannot be written." \
                "Remove $SHARED, or free disk space, and run this again."
        fi
    done
}

take_turn() {
    exec 8>>"$SHARED/turn"
    if flock --nonblock 8; then return 0; fi
    say 'Another run on this machine is setting up; waiting for it …'
    flock --timeout "$TURN_WITHIN" 8 ||
        stop_with 'Another run on this machine has been setting up for very long.' "See what holds $SHARED/turn."
}

end_turn() { exec 8>&-; }

# last_here: whether no other run is left. Nobody can arrive from then on until this run has ended.
last_here() { flock --exclusive --nonblock 9; }

# alone COMMAND…: run what may outlive this run, without its locks and its way to the person.
alone() { "$@" 7>&- 8>&- 9>&-; }

# shellcheck shell=bash
# Several runs on one machine: they set up one after another, and the last to leave puts out the lights.
#
# What a run brought that others may be using meanwhile (a Docker Engine started by hand, images) is noted in SHARED,
# and taken away by whichever run ends last. Descriptor 8 is a turn, 9 being here; nothing that outlives a run may
# inherit them.

SHARED=${TMPDIR:-/tmp}/aima-setup-$(id -u)
TURN_WITHIN=900

arrive() {
    # The last to leave may have removed the file between its opening and its locking here: then once more.
    until [[ $SHARED/here -ef /proc/self/fd/9 ]]; do
        mkdir -m 700 -p "$SHARED"
        [[ -O $SHARED && ! -L $SHARED ]] || stop_with "$SHARED is not mine." "Remove $SHARED and run this again."
        exec 9>>"$SHARED/here"
        flock --shared --timeout "$TURN_WITHIN" 9
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

"""The commands of a hostile engine in a container, for one host and for several."""

from __future__ import annotations

SERVES = "busybox mkdir -p /tmp/www && echo ok > /tmp/www/health && exec busybox httpd -f -p 8000 -h /tmp/www"
LIMITS = {"memory": "96MB", "pids": 64, "cores": 0.5}
"""They bound the test, too."""
GO = ("touch", "/tmp/go")
"""Begins what is not over at once: a fork bomb, all memory, all disk, a flood of log lines."""
ATTACKS = r"""
trap '' TERM
refused() { name=$1; shift; if "$@" 2>/dev/null; then echo "open $name"; else echo "closed $name"; fi; }
busybox mkdir -p /tmp/m
refused mount busybox mount -t tmpfs none /tmp/m
refused bind busybox mount -o bind /proc /tmp/m
refused sysctl sh -c 'echo 1 > /proc/sys/kernel/panic_on_oops'
refused core-pattern sh -c 'echo "|/tmp/x" > /proc/sys/kernel/core_pattern'
refused sysrq sh -c 'echo h > /proc/sysrq-trigger'
refused cgroup sh -c 'busybox mkdir /sys/fs/cgroup/memory/x || busybox mkdir /sys/fs/cgroup/x'
refused device busybox mknod /tmp/disk b 8 0
refused memory-of-the-kernel sh -c 'head -c 1 /proc/kcore | busybox grep -q .'
refused namespace busybox unshare -m true
refused namespace-of-init busybox nsenter -t 1 -m true
refused chroot busybox chroot /tmp true
refused owner busybox chown 1000 /tmp/www
refused host-name busybox hostname hostile
refused interface busybox ifconfig eth0 down
refused raw-socket busybox ping -c 1 127.0.0.1
refused docker-socket test -S /var/run/docker.sock
refused own-programs sh -c 'echo x > /bin/sh'
echo tried
(
    until [ -e /tmp/go ]; do busybox sleep 0.1; done
    (exec busybox seq 1 2000000000) &
    (while :; do busybox dd if=/dev/zero of=/tmp/full bs=1M; busybox dd if=/dev/zero of=/full bs=1M; done) 2>/dev/null &
    (while :; do busybox head -c 200m /dev/zero | busybox tail -c 200m > /dev/null; done) 2>/dev/null &
    bomb() { bomb | bomb & }
    while :; do bomb; done 2>/dev/null
) &
"""
"""Tries to escape, and prints each way as open or closed; begins the rest at GO; ignores SIGTERM."""

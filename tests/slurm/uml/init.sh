#!/bin/bash
# Process 1 of the User Mode Linux guest: mounts what a machine has, runs the payload, powers off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -m 1777 /run/tmp
export TMPDIR=/run/tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
# getaddrinfo(AI_ADDRCONFIG) needs one address besides 127.0.0.1, or it finds no family at all.
ip addr add 127.0.0.2/8 dev lo
echo localhost > /proc/sys/kernel/hostname
mapfile -d '' command < "$UML_WORK/command"
cd /run/tmp
"${command[@]}" < /dev/null > "$UML_WORK/output" 2>&1
echo $? > "$UML_WORK/status"
sync
echo o > /proc/sysrq-trigger
sleep 10

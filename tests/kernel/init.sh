#!/bin/busybox sh
# SPDX-License-Identifier: MIT
# shellcheck shell=dash disable=SC1091
#
# The guest's first process: loads drivers, runs the script that the host hands over through the
# firmware interface with its output on one virtio port, writes its exit status to another, and ends
# the machine. Nodes in /dev come from the kernel: there is no udev.

export PATH=/usr/sbin HOME=/root TERM=dumb LC_ALL=C
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp

option() { # the value of guest.NAME=VALUE on the kernel's command line
  tr ' ' '\n' </proc/cmdline | sed -n "s/^guest\.$1=//p"
}

modprobe -a virtio_pci virtio_console virtio_blk qemu_fw_cfg

ip link set lo up
if [ "$(option net)" = 1 ]; then
  modprobe virtio_net
  ip link set eth0 up
  ip addr add 10.0.2.15/24 dev eth0
  ip route add default via 10.0.2.2
fi
if [ "$(option share)" = 1 ]; then
  modprobe -a 9pnet_virtio 9p
  mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,access=any share /share
fi

for port in /sys/class/virtio-ports/*; do
  read -r name <"$port/name" && ln -sf "/dev/${port##*/}" "/dev/port-$name"
done

disk_count() {
  set -- /sys/block/vd*
  [ -e "$1" ] && echo $# || echo 0
}
disks=$(option disks)
tries=0
while [ "$(disk_count)" -lt "${disks:-0}" ] && [ "$tries" -lt 200 ]; do
  sleep 0.05
  tries=$((tries + 1))
done

handed=/sys/firmware/qemu_fw_cfg/by_name/opt/run
cp "$handed/script/raw" /run/script
cp "$handed/env/raw" /run/env
cd /root || exit 1
(
  set -a
  . /run/env
  exec bash /run/script
) </dev/null >/dev/port-out 2>&1
status=$?

cd /
[ "$(option share)" = 1 ] && umount /share
sync
echo "$status" >/dev/port-status
reboot -f

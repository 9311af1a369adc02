# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2154
# A file system on a device whose table the host changes from phase to phase. The files of the shared folder
# say how far each side is: this one makes PHASE.ready and waits for PHASE.

phase() { # NAME: the host has put another table under the device
  : >"/share/$1.ready"
  for ((try = 0; try < 300; try++)); do
    [ -e "/share/$1" ] && break
    sleep 0.1
  done
  [ -e "/share/$1" ]
  blockdev --flushbufs "$device"
  echo 3 >/proc/sys/vm/drop_caches
}
centiseconds() { cut -d" " -f1 /proc/uptime | tr -d .; }

connect -b 4096
mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 "$device"
mount -t ext4 "$device" /mnt
seq 1 50000 >/mnt/kept
umount /mnt

phase drop_writes
mount -t ext4 "$device" /mnt
[ "$(sha256sum </mnt/kept)" = "$(seq 1 50000 | sha256sum)" ]
seq 1 50000 >/mnt/lost
sync
umount /mnt
echo "writes said to be done"

phase healthy
no_kernel_errors
e2fsck -f -n "$device"
mount -t ext4 -o ro "$device" /mnt
[ "$(sha256sum </mnt/kept)" = "$(seq 1 50000 | sha256sum)" ]
[ ! -e /mnt/lost ]
umount /mnt
echo "and lost, the rest is whole"

phase error_writes
! dd if=/dev/zero of="$device" bs=4096 count=1 seek=2000 oflag=direct 2>/dev/null
dd if="$device" of=/dev/null bs=4096 count=16 iflag=direct 2>/dev/null
echo "writes fail, reads do not"

phase delay
begin=$(centiseconds)
dd if="$device" of=/dev/null bs=4096 count=1 skip=4000 iflag=direct 2>/dev/null
middle=$(centiseconds)
dd if=/dev/zero of="$device" bs=4096 count=1 seek=15000 oflag=direct 2>/dev/null
end=$(centiseconds)
[ $((middle - begin)) -lt 50 ] && [ $((end - middle)) -ge 50 ]
echo "writes wait, reads do not"

phase snapshot
mount -t ext4 "$device" /mnt
seq 1 50000 >/mnt/later
sync
[ "$(sha256sum </mnt/kept)" = "$(seq 1 50000 | sha256sum)" ]
umount /mnt
e2fsck -f -n "$device"

phase without_snapshot
e2fsck -f -n "$device"
mount -t ext4 -o ro "$device" /mnt
[ -e /mnt/kept ] && [ ! -e /mnt/later ]
umount /mnt
echo "a snapshot is written, its origin is not"
nbd-client -d "$device"

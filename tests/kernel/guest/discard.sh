# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2154
# Discards and zeroes ranges, by the device and by the file system, and looks at what is left.

connect -b 4096
block() { # FILE NUMBER: the digest of one MiB of it
  dd if="$1" bs=1M skip="$2" count=1 2>/dev/null | sha256sum
}
seq 1 1300000 >/tmp/pattern
dd if=/tmp/pattern of="$device" bs=1M count=8 conv=fsync 2>/dev/null
blkdiscard -o 1M -l 2M "$device"
blkdiscard -z -o 4M -l 1M "$device"
blockdev --flushbufs "$device"
for number in 1 2 4; do
  [ "$(block "$device" "$number")" = "$(block /dev/zero 0)" ]
done
for number in 0 3 5 6 7; do
  [ "$(block "$device" "$number")" = "$(block /tmp/pattern "$number")" ]
done

mke2fs -q -t ext4 "$device"
mount -t ext4 "$device" /mnt
seq 1 1000000 >/mnt/gone
seq 1 1000 >/mnt/kept
sync
rm /mnt/gone
fstrim -v /mnt
umount /mnt
e2fsck -f -n "$device"
nbd-client -d "$device"
no_kernel_errors
echo "discarded"

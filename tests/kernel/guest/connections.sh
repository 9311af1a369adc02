# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2154
# Four connections to one device: what one wrote and flushed, all of them read.

connect -b 4096 -C 4
mke2fs -q -t ext4 "$device"
mount -t ext4 "$device" /mnt
for number in 1 2 3 4; do
  seq "$number" 400000 >"/mnt/$number" &
done
wait
umount /mnt
blockdev --flushbufs "$device"
mount -t ext4 "$device" /mnt
for number in 1 2 3 4; do
  [ "$(sha256sum <"/mnt/$number")" = "$(seq "$number" 400000 | sha256sum)" ]
done
umount /mnt
e2fsck -f -n "$device"
nbd-client -d "$device"
no_kernel_errors
echo "four connections agree"

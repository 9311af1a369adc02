# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2154
# Finds the file system of filesystem_write.sh whole, in another boot.

connect
e2fsck -f -n "$device"
mount -t ext4 -o ro "$device" /mnt
(cd /mnt && sha256sum -c sums >/tmp/result) || { grep -v ': OK$' /tmp/result; exit 1; }
wc -l </tmp/result
umount /mnt
nbd-client -d "$device"
no_kernel_errors
echo "filesystem intact"

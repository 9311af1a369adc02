# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2154
# Makes a file system on the device, fills it, checks it, and finds it again after a reconnect.

connect
blockdev --getsize64 "$device"
mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 "$device"
mount -t ext4 "$device" /mnt
mkdir /mnt/many
for number in $(seq 100); do
  seq "$number" $((number + 300)) >"/mnt/many/$number"
done
seq 1 700000 >/mnt/large
rm /mnt/many/1[0-9]
sync
(cd /mnt && find . -type f -exec sha256sum {} + | sort >/tmp/sums)
cp /tmp/sums /mnt/sums
umount /mnt
e2fsck -f -n "$device"
nbd-client -d "$device"

connect
e2fsck -f -n "$device"
mount -t ext4 -o ro "$device" /mnt
(cd /mnt && sha256sum -c sums >/tmp/result) || { grep -v ': OK$' /tmp/result; exit 1; }
wc -l </tmp/result
umount /mnt
nbd-client -d "$device"
no_kernel_errors
echo "filesystem written"

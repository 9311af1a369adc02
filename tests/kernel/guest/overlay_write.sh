# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2154
# Changes the file system of filesystem_write.sh through the server at TOP_PORT, which has the one at
# PORT below it; then finds the lower one as it was.

nbd-client "$HOST" "$TOP_PORT" "$device" -N "$EXPORT" 2>&1
e2fsck -f -n "$device"
mount -t ext4 "$device" /mnt
(cd /mnt && sha256sum -c sums >/tmp/result)
rm /mnt/large
seq 5 90000 >/mnt/many/2
seq 7 200000 >/mnt/new
umount /mnt
e2fsck -f -n "$device"
nbd-client -d "$device"

connect
e2fsck -f -n "$device"
mount -t ext4 -o ro "$device" /mnt
[ ! -e /mnt/new ]
(cd /mnt && sha256sum -c sums >/tmp/result) || { grep -v ': OK$' /tmp/result; exit 1; }
umount /mnt
nbd-client -d "$device"

nbd-client "$HOST" "$TOP_PORT" "$device" -N "$EXPORT" 2>&1
mount -t ext4 -o ro "$device" /mnt
[ ! -e /mnt/large ]
[ "$(sha256sum </mnt/new)" = "$(seq 7 200000 | sha256sum)" ]
[ "$(sha256sum </mnt/many/2)" = "$(seq 5 90000 | sha256sum)" ]
umount /mnt
nbd-client -d "$device"
no_kernel_errors
echo "overlay written, lower layer intact"

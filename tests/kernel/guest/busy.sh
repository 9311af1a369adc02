# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2154
# Writes and reads back for SECONDS_BUSY seconds while the host changes what is below; tells the host by
# a flag file in the shared folder when it has begun.

connect -b 4096
mke2fs -q -t ext4 "$device"
mount -t ext4 "$device" /mnt
: >/share/begun
end=$(($(date +%s) + SECONDS_BUSY))
round=0
while [ "$(date +%s)" -lt "$end" ]; do
  round=$((round + 1))
  file=/mnt/$((round % 8))
  seq "$round" $((round + 30000)) >"$file"
  sync "$file"
  [ "$(dd if="$file" iflag=direct bs=64k 2>/dev/null | sha256sum)" = \
    "$(seq "$round" $((round + 30000)) | sha256sum)" ]
done
[ "$round" -gt 2 ]
umount /mnt
e2fsck -f -n "$device"
nbd-client -d "$device"
no_kernel_errors
echo "rounds without an error: $round"

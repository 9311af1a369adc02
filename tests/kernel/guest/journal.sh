# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2154
# A file system that is changed in rounds. After each, when everything of it has been synced, the host is told
# with NAME.ready in the shared folder, and says with NAME that it has marked the place.

connect -b 4096
mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 "$device"
blockdev --flushbufs "$device"
meet_host made
mount -t ext4 -o commit=1 "$device" /mnt
for round in 1 2 3 4 5; do
  mkdir "/mnt/$round"
  for number in $(seq 30); do
    seq "$number" $((number + 200)) >"/mnt/$round/$number"
    [ $((number % 7)) != 0 ] || sync -d "/mnt/$round/$number"
  done
  mv "/mnt/$round/1" "/mnt/$round/moved"
  rm "/mnt/$round/2"
  seq "$round" 20000 >/mnt/again
  sync
  meet_host "round-$round"
done
umount /mnt
nbd-client -d "$device"
no_kernel_errors
echo "five rounds"

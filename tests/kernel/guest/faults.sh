# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2154
# A file system on a device whose table the host changes from phase to phase. The files of the shared folder
# say how far each side is: this one makes PHASE.ready and waits for PHASE.

phase() { # NAME: the host has put another table under the device
  meet_host "$1"
  blockdev --flushbufs "$device"
  echo 3 >/proc/sys/vm/drop_caches
}
centiseconds() { cut -d" " -f1 /proc/uptime | tr -d .; }

takes() { # LEAST MOST COMMAND: it works, and takes so many hundredths of a second
  local begin took least=$1 most=$2
  begin=$(centiseconds)
  "${@:3}"
  took=$(($(centiseconds) - begin))
  echo "$3: $took"
  [ "$took" -ge "$least" ] && [ "$took" -lt "$most" ]
}
fails() { # COMMAND: its failure is wanted
  if "$@" 2>/dev/null; then return 1; fi
}
kept() { # the file of the beginning is as it was
  [ "$(sha256sum </mnt/kept)" = "$(seq 1 50000 | sha256sum)" ]
}
block_in() { dd if="$device" of=/dev/null bs=4096 count=1 skip="$1" iflag=direct 2>/dev/null; }
block_out() { dd if=/dev/zero of="$device" bs=4096 count=1 seek="$1" oflag=direct 2>/dev/null; }
block_synced() { dd if=/dev/zero of="$device" bs=4096 count=1 seek="$1" conv=fsync 2>/dev/null; }

connect -b 4096
mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 "$device" 61440
mount -t ext4 "$device" /mnt
seq 1 50000 >/mnt/kept
umount /mnt

phase drop_writes
mount -t ext4 "$device" /mnt
kept
seq 1 50000 >/mnt/lost
sync
umount /mnt
echo "writes said to be done"

phase after_dropped
no_kernel_errors
e2fsck -f -n "$device"
mount -t ext4 "$device" /mnt
kept
[ ! -e /mnt/lost ]
echo "and lost, the rest is whole"

# The file system is mounted while writes begin to fail.
phase error_writes
fails block_out 15500
block_in 16
fails dd if=/dev/zero of=/mnt/refused bs=4096 count=16 conv=fsync
kept
umount /mnt
echo "writes fail, reads do not"

phase after_errors
dmesg -c >/dev/null
e2fsck -f -y "$device" || [ $? -le 1 ]
e2fsck -f -n "$device"
mount -t ext4 "$device" /mnt
kept
umount /mnt
echo "the file system was told, and is whole"

# One second up, one down, from the moment of the table's load.
phase intervals
states=""
for ((try = 0; try < 200; try++)); do
  block_in 15500 && states+=u || states+=d
  [[ $states =~ ud+u+d+u ]] && break
  sleep 0.1
done
[[ $states =~ ud+u+d+u ]]
echo "up and down by turns"

# Blocks behind the file system.
phase delay
dmesg -c >/dev/null
takes 0 50 block_in 15500
takes 50 300 block_out 15500
mount -t ext4 "$device" /mnt
kept
seq 1 50000 >/mnt/slow
takes 50 900 sync
umount /mnt
e2fsck -f -n "$device"
no_kernel_errors
echo "writes wait, reads do not"

phase flush_delay
takes 0 50 block_in 15500
takes 0 50 block_out 15500
takes 70 400 block_synced 15500
echo "flushes wait"

phase snapshot
mount -t ext4 "$device" /mnt
seq 1 50000 >/mnt/later
sync
kept
umount /mnt
e2fsck -f -n "$device"

phase without_snapshot
e2fsck -f -n "$device"
mount -t ext4 -o ro "$device" /mnt
kept
[ ! -e /mnt/later ]
umount /mnt
echo "a snapshot is written, its origin is not"
nbd-client -d "$device"

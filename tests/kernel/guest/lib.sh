# SPDX-License-Identifier: MIT
# Put before every script of the guest. HOST, PORT and EXPORT come from the test.
# shellcheck shell=bash disable=SC2034

set -euo pipefail
trap 'echo "failed: line $LINENO: $BASH_COMMAND"; dmesg | tail -n 20' ERR
modprobe nbd nbds_max=4
device=/dev/nbd0

connect() { # [options of nbd-client]
  nbd-client "$HOST" "$PORT" "$device" -N "$EXPORT" "$@" 2>&1
}

# Tells the host that the guest is ready for NAME, and waits until it has done its part.
meet_host() { # NAME
  : >"/share/$1.ready"
  for ((try = 0; try < 300; try++)); do
    [ -e "/share/$1" ] && break
    sleep 0.1
  done
  [ -e "/share/$1" ]
}

# What the kernel has to say of the device; any I/O error there fails the test.
no_kernel_errors() {
  ! dmesg | grep -E 'I/O error|EXT4-fs error|EXT4-fs warning|timed out'
}

# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2154
# Lists the server's exports.

nbd-client -l "$HOST" "$PORT" 2>&1

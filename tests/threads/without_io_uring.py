# SPDX-License-Identifier: MIT
"""Runs a command that the kernel refuses io_uring to, as it does in most containers.

usage: without_io_uring.py COMMAND [ARG...]

A seccomp filter answers io_uring_setup, io_uring_enter and io_uring_register with "operation not
permitted", for the command and all that it starts.
"""

import ctypes
import errno
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2

# Instructions of the kernel's packet filter language, and what a seccomp filter may return.
LOAD_WORD = 0x20
JUMP_IF_GREATER_OR_EQUAL = 0x35
RETURN = 0x06
ALLOW = 0x7FFF0000
ANSWER_ERRNO = 0x00050000

# The same numbers on every architecture.
IO_URING_SETUP, IO_URING_REGISTER = 425, 427


def instruction(code, value, if_true=0, if_false=0):
    return struct.pack("HBBI", code, if_true, if_false, value)


def install_filter():
    """Refuses io_uring to this process from now on. Raises OSError when the kernel takes no filter."""
    number_offset = 0  # of the system call's number in struct seccomp_data
    program = b"".join((
        instruction(LOAD_WORD, number_offset),
        instruction(JUMP_IF_GREATER_OR_EQUAL, IO_URING_SETUP, if_false=2),
        instruction(JUMP_IF_GREATER_OR_EQUAL, IO_URING_REGISTER + 1, if_true=1),
        instruction(RETURN, ANSWER_ERRNO | errno.EPERM),
        instruction(RETURN, ALLOW)))
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, and where they are.
    fprog = ctypes.create_string_buffer(struct.pack("HP", len(program) // 8, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, fprog)):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def main():
    install_filter()
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: MIT
"""Handshake rules. The number in a rule's name is its group; the document is the NBD protocol's proto.md."""

import struct
import time

import nbd_wire as nbd
from probe import Skip, check, expect, kind_name, slow

META = "base:allocation"
ALL_INFOS = (nbd.INFO_EXPORT, nbd.INFO_NAME, nbd.INFO_DESCRIPTION, nbd.INFO_BLOCK_SIZE)


def last(replies):
    return kind_name(replies[-1][0])


def rule_00_greeting_is_fixed_newstyle_with_no_zeroes(t):
    with nbd.Client(t.server.address) as c:
        flags = c.greet()
        check(flags & nbd.FIXED_NEWSTYLE, "FIXED_NEWSTYLE is missing")
        check(flags & nbd.NO_ZEROES, "NO_ZEROES is missing")
        check(not flags & ~3, f"unknown handshake flags {flags:#x}")


def rule_01_unknown_client_flag_disconnects(t):
    for bit in (2, 8, 31):
        with t.raw(flags=3 | 1 << bit) as c:
            try:
                c.send_option(nbd.OPT_LIST)
                check(False, f"client flag bit {bit}: answered {kind_name(c.option_reply(nbd.OPT_LIST)[0])}")
            except nbd.Closed:
                pass


def rule_02_without_fixed_newstyle_only_export_name(t):
    with t.raw(flags=0) as c:
        try:
            expect(last(c.option(nbd.OPT_LIST)), "ERR_INVALID", "ERR_UNSUP", "ERR_POLICY", what="LIST")
        except nbd.Closed:
            pass
    with t.raw(flags=0) as c:
        c.export_name(t.name, zeroes=True)
        t.alive(c)


def rule_02_export_name_zeroes_follow_the_client_flag(t):
    with t.raw(flags=nbd.FIXED_NEWSTYLE) as c:
        c.export_name(t.name, zeroes=True)
        t.alive(c)
    with t.raw() as c:
        c.export_name(t.name)
        t.alive(c)


def rule_02_export_name_and_go_agree(t):
    with t.raw() as a, t.raw() as b:
        a.export_name(t.name)
        b.go(t.name)
        expect((a.size, a.flags), (b.size, b.flags), what="EXPORT_NAME's size and flags")
        check(a.flags & nbd.HAS_FLAGS, "HAS_FLAGS is missing")


def rule_02_export_name_after_options_keeps_them(t):
    with t.raw() as c:
        if not c.structured_reply():
            raise Skip("no structured replies")
        c.export_name(t.name)
        check(c.call(nbd.CMD_READ, 0, 512).structured, "structured replies forgotten")


def rule_03_export_name_of_unknown_export_disconnects(t):
    for name in ("no-such-export", "x" * 4096):
        with t.raw() as c:
            c.send_option(nbd.OPT_EXPORT_NAME, name.encode())
            check(c.closed_within(5), f"still open after an unknown name of {len(name)} bytes")


def rule_03_export_name_too_long_disconnects(t):
    with t.raw() as c:
        try:
            c.send_option(nbd.OPT_EXPORT_NAME, b"x" * 4097)
            c.send(bytes(1 << 20))
        except nbd.Closed:
            return
        check(c.closed_within(5), "still open after a name of 4097 bytes")


def rule_04_unknown_option_unsup_in_step(t):
    for option in (0, nbd.OPT_PEEK, 77, 0x7FFFFFFF, 0xFFFFFFFF):
        with t.raw() as c:
            for size in (0, 1, 100, 4096, 65536):
                expect(last(c.option(option, bytes(size))), "ERR_UNSUP", what=f"option {option}, {size} bytes:")
            t.in_step(c)


def rule_04_option_data_to_1_mib_is_drained_or_dropped(t):
    with t.raw() as c:
        try:
            expect(last(c.option(77, bytes(1 << 20))), "ERR_UNSUP", "ERR_TOO_BIG")
        except nbd.Closed:
            return
        t.in_step(c)


@slow
def rule_04_option_of_4_gib_does_not_wait_for_it(t):
    with t.raw() as c:
        c.send_option(77, bytes(100), length=0xFFFFFFFF)
        check(c.closed_within(t.wait_limit_s), f"still waiting for 4 GiB after {t.wait_limit_s} s")


def rule_04_bad_option_magic_disconnects(t):
    with t.raw() as c:
        c.send(struct.pack(">QII", nbd.NBDMAGIC, nbd.OPT_LIST, 0))
        check(c.closed_within(5), "still open after a bad option magic")


def rule_05_list_names_the_export(t):
    with t.raw() as c:
        replies = c.option(nbd.OPT_LIST)
        expect(last(replies), "ACK")
        names = []
        for kind, data in replies[:-1]:
            expect(kind_name(kind), "SERVER")
            length = struct.unpack(">I", data[:4])[0]
            check(length <= len(data) - 4, "name longer than the reply")
            names.append(data[4:4 + length].decode())
        check(t.name in names, f"{t.name!r} is not in {names}")
        t.in_step(c)


def rule_05_list_with_data_is_invalid_in_step(t):
    with t.raw() as c:
        for data in (b"x", bytes(5000)):
            replies = c.option(nbd.OPT_LIST, data)
            expect(last(replies), "ERR_INVALID")
        t.in_step(c)


def rule_06_abort_is_acknowledged_then_closed(t):
    for data in (b"", b"ignored"):
        with t.raw() as c:
            expect(last(c.option(nbd.OPT_ABORT, data)), "ACK")
            check(c.closed_within(5), "still open after ABORT")


def rule_06_abort_and_close_without_waiting_hurts_nobody(t):
    for _ in range(20):
        c = t.raw()
        c.send_option(nbd.OPT_ABORT)
        c.close()
    with t.connect() as c:
        t.alive(c)


def malformed_go_data(name):
    name = name.encode()
    good = struct.pack(f">I{len(name)}sHHH", len(name), name, 2, 0, 3)
    return {
        "empty": b"",
        "3 bytes": bytes(3),
        "only the name's length": struct.pack(">I", 0),
        "name beyond the data": struct.pack(">IHH", 100, 0, 0),
        "name length 2^32-1": struct.pack(">IH", 0xFFFFFFFF, 0),
        "name over the info count": struct.pack(">I2s", 2, b"ab"),
        "more infos than data": struct.pack(f">I{len(name)}sHH", len(name), name, 9, 0),
        "65535 infos, no data": struct.pack(f">I{len(name)}sH", len(name), name, 65535),
        "half an info": good[:-1],
        "trailing bytes": good + b"xyz",
    }


def rule_07_malformed_info_and_go_are_invalid_in_step(t):
    for what, data in malformed_go_data(t.name).items():
        with t.raw() as c:
            for option in (nbd.OPT_INFO, nbd.OPT_GO):
                expect(last(c.option(option, data)), "ERR_INVALID", what=f"option {option}, {what}:")
            t.in_step(c)


def rule_08_unknown_name_is_unknown_in_step(t):
    with t.raw() as c:
        for option in (nbd.OPT_INFO, nbd.OPT_GO):
            for name in ("no-such-export", "x" * 4096):
                replies = c.option(option, nbd.go_data(name))
                expect(last(replies), "ERR_UNKNOWN", what=f"name of {len(name)} bytes:")
                check(len(replies) == 1, "INFO sent for an unknown export")
        t.in_step(c)


def rule_08_name_with_nul_is_refused_in_step(t):
    with t.raw() as c:
        for name in (b"a\0b", t.name.encode() + b"\0"):
            expect(last(c.option(nbd.OPT_INFO, nbd.go_data(name))), "ERR_INVALID", "ERR_UNKNOWN")
        t.in_step(c)


def rule_08_name_of_4097_bytes_is_refused_in_step(t):
    with t.raw() as c:
        for size in (4097, 5000, 65000):
            expect(last(c.option(nbd.OPT_GO, nbd.go_data("x" * size))), "ERR_INVALID", "ERR_UNKNOWN", "ERR_TOO_BIG")
        t.in_step(c)


def rule_08_name_that_is_not_utf8_is_refused_in_step(t):
    with t.raw() as c:
        expect(last(c.option(nbd.OPT_GO, nbd.go_data(b"\xff\xfe\x80"))), "ERR_INVALID", "ERR_UNKNOWN")
        t.in_step(c)


def rule_09_info_and_go_give_the_same(t):
    for infos in ((), ALL_INFOS):
        with t.raw() as c:
            expect(kind_name(c.go(t.name, infos, option=nbd.OPT_INFO)), "ACK", what="INFO")
            told = c.infos
            expect(kind_name(c.go(t.name, infos)), "ACK", what="GO")
            check(c.infos == told, f"INFO told {told}, GO {c.infos}")


def rule_10_info_export_is_always_there(t):
    for infos in ((), (nbd.INFO_NAME,), ALL_INFOS):
        with t.raw() as c:
            c.go(t.name, infos, option=nbd.OPT_INFO)
            check(nbd.INFO_EXPORT in c.infos, f"INFO_EXPORT is missing when {infos} are asked")
            expect(len(c.infos[nbd.INFO_EXPORT]), 10, what="length of INFO_EXPORT")


def rule_10_unknown_and_repeated_infos_are_ignored(t):
    with t.raw() as c:
        expect(kind_name(c.go(t.name, (0, 0, 3, 3, 77, 0xFFFF), option=nbd.OPT_INFO)), "ACK")
        check(set(c.infos) <= {0, 1, 2, 3}, f"unknown infos {set(c.infos)}")
        t.in_step(c)


def rule_10_name_description_block_size_are_told_when_asked(t):
    with t.raw() as c:
        c.go(t.name, ALL_INFOS, option=nbd.OPT_INFO)
        missing = [what for info, what in enumerate(("EXPORT", "NAME", "DESCRIPTION", "BLOCK_SIZE"))
                   if info not in c.infos]
        check(not missing, f"not told: {' '.join(missing)}")
        expect(c.infos[nbd.INFO_NAME].decode(), t.name, what="INFO_NAME")
        c.infos[nbd.INFO_DESCRIPTION].decode()


def rule_10_no_padding_after_go(t):
    for flags in (nbd.FIXED_NEWSTYLE, nbd.FIXED_NEWSTYLE | nbd.NO_ZEROES):
        with t.raw(flags) as c:
            t.in_step(c)


def rule_10_options_may_arrive_byte_by_byte_or_all_at_once(t):
    data = struct.pack(">QII", nbd.IHAVEOPT, nbd.OPT_LIST, 0)
    go = nbd.go_data(t.name)
    data += struct.pack(">QII", nbd.IHAVEOPT, nbd.OPT_GO, len(go)) + go + nbd.request(nbd.CMD_READ, 0, 512)
    for step in (1, len(data)):
        with t.raw() as c:
            c.expect(1, 512)
            for i in range(0, len(data), step):
                c.send(data[i:i + step])
            for option in (nbd.OPT_LIST, nbd.OPT_GO):
                while (kind := c.option_reply(option)[0]) != nbd.REP_ACK:
                    check(not kind & nbd.ERR, f"option {option}: {kind_name(kind)}")
            expect(len(c.reply().content[0][1]), 512, what="bytes read")


def rule_11_structured_reply_twice(t):
    with t.raw() as c:
        if not c.structured_reply():
            raise Skip("no structured replies")
        expect(last(c.option(nbd.OPT_STRUCTURED_REPLY)), "ACK", "ERR_INVALID")
        t.in_step(c)


def rule_11_structured_reply_with_data_is_invalid_and_not_negotiated(t):
    with t.raw() as c:
        expect(last(c.option(nbd.OPT_STRUCTURED_REPLY, b"data")), "ERR_INVALID")
        check(not c.set_meta_context(t.name, [META]), "negotiated all the same")
        t.in_step(c)


def rule_12_starttls_without_tls_is_refused_in_step(t):
    with t.raw() as c:
        expect(last(c.option(nbd.OPT_STARTTLS)), "ERR_UNSUP", "ERR_POLICY", "ERR_PLATFORM")
        expect(last(c.option(nbd.OPT_STARTTLS, b"data")), "ERR_UNSUP", "ERR_INVALID", "ERR_POLICY", "ERR_PLATFORM")
        t.in_step(c)


def rule_13_set_meta_context_before_structured_reply_is_invalid(t):
    with t.raw() as c:
        expect(last(c.option(nbd.OPT_SET_META_CONTEXT, nbd.meta_data(t.name, [META]))), "ERR_INVALID")
        t.in_step(c)


def rule_13_list_meta_context_finds_base_allocation(t):
    with t.raw() as c:
        if not c.structured_reply():
            raise Skip("no structured replies")
        for queries, found in (([], True), ([META], True), (["base:"], True), (["x-none:"], False),
                               (["x-none:foo", META], True)):
            replies = c.option(nbd.OPT_LIST_META_CONTEXT, nbd.meta_data(t.name, queries))
            expect(last(replies), "ACK", what=f"LIST_META_CONTEXT {queries}")
            names = [data[4:].decode() for _, data in replies[:-1]]
            check((META in names) == found, f"LIST_META_CONTEXT {queries} gives {names}")
        t.in_step(c)


def need_meta(t, c):
    if not c.structured_reply() or not c.set_meta_context(t.name, [META]):
        raise Skip("no base:allocation")


def rule_13_set_meta_context_selects_only_what_is_known(t):
    with t.raw() as c:
        need_meta(t, c)
        for queries in (["x-none:foo"], ["base:nonesuch"], ["base:"], [], ["qemu:dirty-bitmap:none"]):
            kind = last(c.option(nbd.OPT_SET_META_CONTEXT, nbd.meta_data(t.name, queries)))
            expect(kind, *(["ACK", "ERR_INVALID"] if queries == ["base:nonesuch"] else ["ACK"]),
                   what=f"SET {queries}")
            check(not c.set_meta_context(t.name, queries), f"SET {queries} selected {c.contexts}")
        check(c.set_meta_context(t.name, ["x-none:foo", META, "base:none"]), "SET of known and unknown selected none")
        t.in_step(c)


def rule_13_meta_query_without_colon_stays_in_step(t):
    with t.raw() as c:
        need_meta(t, c)
        for query in ("", "base", "nonsense"):
            expect(last(c.option(nbd.OPT_SET_META_CONTEXT, nbd.meta_data(t.name, [query]))), "ACK", "ERR_INVALID")
        t.in_step(c)


def rule_13_duplicate_query_gives_one_context(t):
    with t.raw() as c:
        need_meta(t, c)
        replies = c.option(nbd.OPT_SET_META_CONTEXT, nbd.meta_data(t.name, [META] * 3))
        expect(last(replies), "ACK")
        ids = [data[:4] for _, data in replies[:-1]]
        check(len(ids) == len(set(ids)), f"one id {len(ids)} times")
        t.in_step(c)


def rule_13_malformed_meta_context_is_invalid_in_step(t):
    name = t.name.encode()
    start = struct.pack(f">I{len(name)}s", len(name), name)
    query = struct.pack(">I", len(META)) + META.encode()
    broken = {
        "empty": b"",
        "name beyond the data": struct.pack(">II", 100, 0),
        "name length 2^32-1": struct.pack(">II", 0xFFFFFFFF, 0),
        "no query count": start,
        "more queries than data": start + struct.pack(">I", 2) + query,
        "2^32-1 queries": start + struct.pack(">I", 0xFFFFFFFF) + query,
        "query beyond the data": start + struct.pack(">II", 1, 500) + b"base:",
        "query length 2^32-1": start + struct.pack(">II", 1, 0xFFFFFFFF),
    }
    for what, data in broken.items():
        with t.raw() as c:
            if not c.structured_reply():
                raise Skip("no structured replies")
            for option in (nbd.OPT_LIST_META_CONTEXT, nbd.OPT_SET_META_CONTEXT):
                expect(last(c.option(option, data)), "ERR_INVALID", what=f"option {option}, {what}:")
            t.in_step(c)


def rule_13_meta_context_with_trailing_bytes_is_invalid_in_step(t):
    with t.raw() as c:
        need_meta(t, c)
        for option in (nbd.OPT_LIST_META_CONTEXT, nbd.OPT_SET_META_CONTEXT):
            expect(last(c.option(option, nbd.meta_data(t.name, [META]) + b"x")), "ERR_INVALID", what=f"option {option}")
        t.in_step(c)


def rule_13_meta_context_of_unknown_export_is_unknown(t):
    with t.raw() as c:
        need_meta(t, c)
        for option in (nbd.OPT_LIST_META_CONTEXT, nbd.OPT_SET_META_CONTEXT):
            replies = c.option(option, nbd.meta_data("no-such-export", [META]))
            expect(last(replies), "ERR_UNKNOWN")
        t.in_step(c)


def rule_13_failed_set_drops_the_earlier_contexts(t):
    with t.raw() as c:
        need_meta(t, c)
        expect(last(c.option(nbd.OPT_SET_META_CONTEXT, b"")), "ERR_INVALID")
        c.go(t.name)
        expect(c.error(nbd.CMD_BLOCK_STATUS, 0, 4096), "EINVAL", what="BLOCK_STATUS")
        t.alive(c)


def rule_13_empty_set_drops_the_earlier_contexts(t):
    with t.raw() as c:
        need_meta(t, c)
        c.set_meta_context(t.name, [])
        c.go(t.name)
        expect(c.error(nbd.CMD_BLOCK_STATUS, 0, 4096), "EINVAL", what="BLOCK_STATUS")
        t.alive(c)


def rule_14_df_only_after_structured_reply(t):
    with t.connect() as c:
        check(not c.flags & nbd.SEND_DF, "DF without structured replies")
    with t.connect(structured=True) as c:
        check(c.flags & nbd.SEND_DF, "no DF with structured replies")


@slow
def rule_15_idle_handshake_times_out(t):
    with nbd.Client(t.server.address) as silent, t.raw() as greeted, t.raw() as half:
        half.send_option(nbd.OPT_GO, b"", length=500)
        limit = time.monotonic() + t.wait_limit_s
        for what, c in (("before its flags", silent), ("before an option", greeted), ("in an option", half)):
            check(c.closed_within(max(0.1, limit - time.monotonic())),
                  f"client that stopped {what} still connected after {t.wait_limit_s} s")


@slow
def rule_15_dripping_handshake_times_out(t):
    with t.raw() as c:
        limit = time.monotonic() + t.wait_limit_s
        try:
            c.send_option(nbd.OPT_GO, b"", length=4000)
            while time.monotonic() < limit:
                c.send(b"x")
                time.sleep(0.25)
        except nbd.Closed:
            return
        check(False, f"a byte every 250 ms keeps the handshake open for {t.wait_limit_s} s")


def rule_15_idle_handshakes_do_not_block_others(t):
    idle = []
    try:
        for _ in range(300):
            try:
                idle.append(nbd.Client(t.server.address, timeout_s=0.1))
            except OSError:
                break
        start = time.monotonic()
        with t.connect() as c:
            t.alive(c)
        took = time.monotonic() - start
        check(took < 3, f"a new client took {took:.1f} s beside {len(idle)} idle ones")
    finally:
        for c in idle:
            c.close()


def rule_37_extended_headers_are_refused_in_step(t):
    with t.raw() as c:
        expect(last(c.option(nbd.OPT_EXTENDED_HEADERS)), "ERR_UNSUP")
        t.in_step(c)

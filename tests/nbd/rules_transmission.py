# SPDX-License-Identifier: MIT
"""Transmission rules: requests, their limits and errors, replies."""

import random
import struct
import threading

import nbd_wire as nbd
from probe import MIB, Skip, check, expect, pattern

SECTOR = 512
WRITE_COMMANDS = (nbd.CMD_WRITE, nbd.CMD_TRIM, nbd.CMD_WRITE_ZEROES)


def error_of(c, cmd, offset, length, flags=0):
    """The error of a command; a write carries its payload."""
    data = bytes(length) if cmd == nbd.CMD_WRITE else b""
    return c.error(cmd, offset, length, flags, data)


def offered(c):
    """The commands of this connection that the export's flags allow."""
    by_flag = {nbd.CMD_FLUSH: nbd.SEND_FLUSH, nbd.CMD_TRIM: nbd.SEND_TRIM, nbd.CMD_CACHE: nbd.SEND_CACHE,
               nbd.CMD_WRITE_ZEROES: nbd.SEND_WRITE_ZEROES}
    commands = [nbd.CMD_READ, nbd.CMD_WRITE] + [cmd for cmd, flag in by_flag.items() if c.flags & flag]
    return commands + ([nbd.CMD_BLOCK_STATUS] if c.contexts else [])


def rule_16_bad_request_magic_disconnects(t):
    for magic in (0, nbd.SIMPLE_MAGIC, nbd.REQUEST_MAGIC + 1):
        with t.connect() as c:
            c.send(nbd.request(nbd.CMD_READ, 0, 512, magic=magic))
            try:
                reply = c.recv(16)
                check(False, f"magic {magic:#x} was answered: {reply.hex()}")
            except nbd.Closed:
                pass


def rule_16_extended_magic_without_negotiation_disconnects(t):
    with t.connect(structured=True) as c:
        c.send(struct.pack(">IHHQQQ", nbd.EXTENDED_REQUEST_MAGIC, 0, nbd.CMD_READ, 1, 0, 512))
        try:
            reply = c.recv(16)
            check(False, f"was answered: {reply.hex()}")
        except nbd.Closed:
            pass


def beyond_end(t, connect):
    with connect() as c:
        wanted = {nbd.CMD_WRITE: "ENOSPC", nbd.CMD_WRITE_ZEROES: "ENOSPC"}
        wrong = []
        for cmd in offered(c):
            if cmd == nbd.CMD_FLUSH:
                continue
            for offset, length in ((c.size, 512), (c.size - 512, 1024), (c.size + MIB, 4096), (0, c.size + 512)):
                if length > 64 * 1024 and cmd in (nbd.CMD_READ, nbd.CMD_WRITE):
                    continue
                got = error_of(c, cmd, offset, length)
                want = wanted.get(cmd, "EINVAL")
                if got != want:
                    wrong.append(f"{nbd.CMD_NAMES[cmd]} {got} (want {want})")
        t.alive(c)
        check(not wrong, ", ".join(sorted(set(wrong))))


def rule_17_beyond_the_end_is_enospc_or_einval_and_drained(t):
    beyond_end(t, lambda: t.connect())


def rule_17_beyond_the_end_with_structured_replies(t):
    beyond_end(t, lambda: t.connect(meta=True))


def rule_17_the_last_sector_can_be_used(t):
    with t.connect(structured=True) as c:
        data = pattern(17, SECTOR)
        c.write(c.size - SECTOR, data)
        check(c.read(c.size - SECTOR, SECTOR) == data, "last sector does not read back")
        c.write(c.size - SECTOR, bytes(SECTOR))


def rule_18_offset_plus_length_may_wrap(t):
    with t.connect() as c:
        wrong = []
        for cmd in offered(c):
            if cmd == nbd.CMD_FLUSH:
                continue
            for offset in (2**64 - 512, 2**64 - 1, 2**63, 2**63 - 512):
                got = error_of(c, cmd, offset, 1024)
                want = "ENOSPC" if cmd in (nbd.CMD_WRITE, nbd.CMD_WRITE_ZEROES) else "EINVAL"
                if got != want:
                    wrong.append(f"{nbd.CMD_NAMES[cmd]} at {offset:#x} {got} (want {want})")
        t.alive(c)
        check(not wrong, ", ".join(wrong))


def rule_19_read_only_export_says_so(t):
    with t.connect(read_only=True) as c:
        check(c.flags & nbd.READ_ONLY, "READ_ONLY is missing")
        t.alive(c)


def rule_19_writes_to_read_only_are_eperm_and_drained(t):
    with t.connect(read_only=True) as c:
        before = c.read(0, 65536)
        got = [f"{nbd.CMD_NAMES[cmd]} {error_of(c, cmd, 0, 65536)}" for cmd in WRITE_COMMANDS]
        check(c.read(0, 65536) == before, "a refused write changed the content")
        expect(got, [f"{nbd.CMD_NAMES[cmd]} EPERM" for cmd in WRITE_COMMANDS], what="errors")


def rule_19_read_only_refuses_fua_and_flagged_writes(t):
    with t.connect(read_only=True) as c:
        for cmd, flags in ((nbd.CMD_WRITE, nbd.FUA), (nbd.CMD_WRITE_ZEROES, nbd.NO_HOLE), (nbd.CMD_TRIM, nbd.FUA)):
            expect(error_of(c, cmd, 0, 4096, flags), "EPERM", "EINVAL", what=f"{nbd.CMD_NAMES[cmd]} {flags}")
        t.alive(c)


def rule_20_requests_to_32_mib_are_served(t):
    offset, length = t.region(32 * MIB), 32 * MIB
    with t.connect(structured=True, timeout_s=20) as c:
        data = pattern(20, length)
        c.write(offset, data)
        check(c.read(offset, length) == data, "32 MiB do not read back")
        c.call(nbd.CMD_WRITE_ZEROES, offset, length)


def rule_20_requests_to_64_mib_are_served(t):
    offset = t.region(64 * MIB)
    for length in (52_289_024, 64 * MIB):  # the first: the biggest request in nbd's own integrity test
        with t.connect(timeout_s=20) as c:
            data = pattern(length, length)
            c.write(offset, data)
            check(c.read(offset, length) == data, f"{length} bytes do not read back")
    with t.connect() as c:
        c.call(nbd.CMD_WRITE_ZEROES, offset, 64 * MIB)


def rule_20_bigger_writes_are_drained_or_disconnected(t):
    offset, length = t.region(96 * MIB), 96 * MIB
    with t.connect(timeout_s=20) as c:
        try:
            c.call(nbd.CMD_WRITE, offset, length, data=bytes(length))
            t.alive(c)
        except nbd.Closed:
            pass
    with t.connect() as c:
        t.alive(c)


def rule_21_bigger_reads_fail_cleanly(t):
    for structured in (False, True):
        for length in (96 * MIB, 128 * MIB):
            with t.connect(structured=structured, timeout_s=20) as c:
                reply = c.call(nbd.CMD_READ, 0, length)
                expect(nbd.ERROR_NAMES.get(reply.error), "ok", "EINVAL", "EOVERFLOW", "ENOMEM")
                if reply.structured and not reply.error:
                    reply.data(0, length)
                t.alive(c)


def rule_21_bigger_trim_and_zeroes_do_not_disconnect(t):
    with t.connect(meta=True, timeout_s=20) as c:
        for cmd in set(offered(c)) & {nbd.CMD_TRIM, nbd.CMD_WRITE_ZEROES, nbd.CMD_CACHE, nbd.CMD_BLOCK_STATUS}:
            expect(error_of(c, cmd, 0, 128 * MIB), "ok", "EINVAL", "EOVERFLOW", what=nbd.CMD_NAMES[cmd])
        t.alive(c)


def rule_22_length_0_does_not_disconnect(t):
    for meta in (False, True):
        with t.connect(meta=meta) as c:
            for cmd in offered(c):
                expect(error_of(c, cmd, 0, 0), "ok", "EINVAL", what=f"{nbd.CMD_NAMES[cmd]} of length 0:")
            for cmd in (nbd.CMD_READ, nbd.CMD_WRITE):
                expect(error_of(c, cmd, c.size, 0), "ok", "EINVAL", "ENOSPC", what="length 0 at the end:")
            t.alive(c)


def rule_23_unknown_commands_are_einval_in_step(t):
    for structured in (False, True):
        with t.connect(structured=structured) as c:
            for cmd in (8, 9, 255, 0xFFFF):
                expect(c.error(cmd, 0, 512), "EINVAL", what=f"command {cmd}")
            t.alive(c)


def rule_23_unknown_and_misplaced_flags_are_einval_and_drained(t):
    offset = t.region(MIB)
    misplaced = {
        nbd.CMD_READ: (nbd.NO_HOLE, nbd.REQ_ONE, nbd.FAST_ZERO),
        nbd.CMD_WRITE: (nbd.NO_HOLE, nbd.DF, nbd.REQ_ONE, nbd.FAST_ZERO),
        nbd.CMD_FLUSH: (nbd.NO_HOLE, nbd.DF, nbd.REQ_ONE),
        nbd.CMD_TRIM: (nbd.NO_HOLE, nbd.DF, nbd.REQ_ONE, nbd.FAST_ZERO),
        nbd.CMD_CACHE: (nbd.NO_HOLE, nbd.DF, nbd.REQ_ONE),
        nbd.CMD_WRITE_ZEROES: (nbd.DF, nbd.REQ_ONE),
        nbd.CMD_BLOCK_STATUS: (nbd.NO_HOLE, nbd.DF, nbd.FAST_ZERO),
    }
    with t.connect(meta=t.has_meta()) as c:
        data, wrong = pattern(23, 4096), []
        c.write(offset, data)
        for cmd in offered(c):
            for flag in misplaced[cmd] + (1 << 6, 1 << 15):
                length = 0 if cmd == nbd.CMD_FLUSH else 4096
                got = error_of(c, cmd, 0 if cmd == nbd.CMD_FLUSH else offset, length, flag)
                if got != "EINVAL":
                    wrong.append(f"{nbd.CMD_NAMES[cmd]} flags {flag:#x} {got}")
        check(c.read(offset, 4096) == data, "a refused command changed the content")
        check(not wrong, ", ".join(wrong))


def rule_23_df_without_structured_replies_is_einval(t):
    with t.connect() as c:
        expect(c.error(nbd.CMD_READ, 0, 512, nbd.DF), "EINVAL")
        t.alive(c)


def rule_23_fua_is_accepted_on_every_command(t):
    t.need(nbd.SEND_FUA, "FUA")
    offset = t.region(MIB)
    with t.connect(meta=t.has_meta()) as c:
        wrong = []
        for cmd in offered(c):
            flush = cmd == nbd.CMD_FLUSH
            got = error_of(c, cmd, 0 if flush else offset, 0 if flush else 4096, nbd.FUA)
            if got != "ok":
                wrong.append(f"{nbd.CMD_NAMES[cmd]} {got}")
        t.alive(c)
        check(not wrong, ", ".join(wrong))


def rule_24_fast_zero_unadvertised_is_einval_and_harmless(t):
    with t.connect(read_only=t.server.read_only_address is not None) as c:
        flags = c.flags
        if not flags & nbd.SEND_FAST_ZERO:
            expect(c.error(nbd.CMD_WRITE_ZEROES, 0, 4096, nbd.FAST_ZERO), "EINVAL", "EPERM")
            t.alive(c)
    with t.connect() as c:
        if c.flags & nbd.SEND_FAST_ZERO and flags & nbd.SEND_FAST_ZERO:
            raise Skip("FAST_ZERO advertised")
        if not c.flags & nbd.SEND_FAST_ZERO:
            expect(c.error(nbd.CMD_WRITE_ZEROES, t.region(MIB), 4096, nbd.FAST_ZERO), "EINVAL")
        t.alive(c)


def rule_25_fast_zero_zeroes_or_alters_nothing(t):
    t.need(nbd.SEND_FAST_ZERO, "FAST_ZERO")
    offset = t.region(2 * MIB)
    with t.connect() as c:
        data = pattern(25, 2 * MIB)
        for start, length, flags in ((0, 2 * MIB, 0), (512, 512, 0), (65536, 65536, nbd.NO_HOLE), (4096, 200000, 0)):
            length = length // SECTOR * SECTOR
            c.write(offset, data)
            error = c.error(nbd.CMD_WRITE_ZEROES, offset + start, length, nbd.FAST_ZERO | flags)
            expect(error, "ok", "ENOTSUP")
            want = bytearray(data)
            if error == "ok":
                want[start:start + length] = bytes(length)
            check(c.read(offset, 2 * MIB) == want, f"content wrong after FAST_ZERO answered {error}")


def zero_test(t, cmd, flags=0):
    offset = t.region(2 * MIB)
    with t.connect(meta=True) as c:
        data = pattern(cmd, 2 * MIB)
        for start, length in ((0, 2 * MIB), (512, 512), (65536 - 512, 1024), (4096, 262144), (66048, MIB)):
            c.write(offset, data)
            expect(c.error(cmd, offset + start, length, flags), "ok")
            got = c.read(offset, 2 * MIB)
            check(got[:start] == data[:start] and got[start + length:] == data[start + length:],
                  f"bytes around {start}+{length} changed")
            inside = got[start:start + length]
            if cmd == nbd.CMD_WRITE_ZEROES:
                check(inside == bytes(length), f"{start}+{length} is not zero")


def rule_25_write_zeroes_zeroes_exactly(t):
    t.need(nbd.SEND_WRITE_ZEROES, "WRITE_ZEROES")
    zero_test(t, nbd.CMD_WRITE_ZEROES)


def rule_25_write_zeroes_no_hole_zeroes_exactly(t):
    t.need(nbd.SEND_WRITE_ZEROES, "WRITE_ZEROES")
    zero_test(t, nbd.CMD_WRITE_ZEROES, nbd.NO_HOLE)


def rule_25_trim_touches_nothing_around(t):
    t.need(nbd.SEND_TRIM, "TRIM")
    zero_test(t, nbd.CMD_TRIM)


def rule_25_trimmed_parts_agree_with_block_status(t):
    t.need(nbd.SEND_TRIM, "TRIM")
    offset = t.region(2 * MIB)
    with t.connect(meta=True) as c:
        c.write(offset, pattern(25, 2 * MIB))
        expect(c.error(nbd.CMD_TRIM, offset + 4096, MIB), "ok")
        check_zero_extents(c, offset, 2 * MIB)


def rule_26_structured_reads_are_structured_even_in_error(t):
    with t.connect(structured=True) as c:
        for offset, length, flags in ((c.size, 512, 0), (2**64 - 512, 1024, 0), (0, 512, 1 << 12), (0, 0, 0)):
            check(c.call(nbd.CMD_READ, offset, length, flags).structured, "simple reply")
        check(c.call(nbd.CMD_READ, 0, 512).structured, "simple reply")


def rule_26_chunks_tile_the_request(t):
    offset = t.region(8 * MIB)
    with t.connect(structured=True) as c:
        model = bytearray(8 * MIB)
        c.call(nbd.CMD_WRITE_ZEROES, offset, 8 * MIB)
        rng = random.Random(26)
        for _ in range(20):
            start, length = rng.randrange(0, 7 * MIB) & ~4095, rng.randrange(1, 16) * 4096
            data = rng.randbytes(length)
            model[start:start + length] = data
            c.write(offset + start, data)
        for start, length in [(0, 8 * MIB)] + [(rng.randrange(0, 6 * MIB) & ~511, rng.randrange(1, 4096) * 512)
                                               for _ in range(40)]:
            check(c.read(offset + start, length) == model[start:start + length], f"read {start}+{length} is wrong")


def rule_26_df_gives_one_content_chunk(t):
    offset = t.region(MIB)
    with t.connect(structured=True) as c:
        if not c.flags & nbd.SEND_DF:
            raise Skip("DF not advertised")
        c.call(nbd.CMD_WRITE_ZEROES, offset, MIB)
        want = bytearray(MIB)
        for start in range(0, MIB, 16384):
            want[start:start + 4096] = pattern(start, 4096)
            c.write(offset + start, want[start:start + 4096])
        for length in (512, 4096, 20480, 65536):
            reply = c.call(nbd.CMD_READ, offset, length, nbd.DF)
            check(not reply.error, f"DF read of {length}: error {reply.error}")
            expect(len(reply.content), 1, what="content chunks")
            check(reply.data(offset, length) == want[:length], "content is wrong")
        reply = c.call(nbd.CMD_READ, offset, MIB, nbd.DF)
        expect(nbd.ERROR_NAMES[reply.error], "ok", "EOVERFLOW", what="DF read of 1 MiB")
        check(len(reply.content) == (0 if reply.error else 1), f"{len(reply.content)} content chunks")


def check_zero_extents(c, offset, length):
    """Walks the block status of a range: extents make sense, and what is called zero reads as zero."""
    content, position = c.read(offset, length), offset
    while position < offset + length:
        left = offset + length - position
        reply = c.call(nbd.CMD_BLOCK_STATUS, position, left)
        check(not reply.error, f"BLOCK_STATUS: error {reply.error}")
        expect(list(reply.status), list(c.contexts.values()), what="contexts answered")
        extents = next(iter(reply.status.values()))
        check(0 < len(extents) <= 1 << 20, f"{len(extents)} extents")
        check(sum(size for size, _ in extents[:-1]) < left, "more than the last extent reaches past the request")
        for size, status in extents:
            check(size > 0 and size % SECTOR == 0, f"extent of {size} bytes")
            check(not status & ~3, f"status {status:#x}")
            part = content[position - offset:position - offset + size]
            if status & nbd.ZERO:
                check(part == bytes(len(part)), f"{size} bytes at {position} are called zero and are not")
            position += size


def rule_28_block_status_agrees_with_content(t):
    offset = t.region(8 * MIB)
    with t.connect(meta=True) as c:
        c.call(nbd.CMD_WRITE_ZEROES, offset, 8 * MIB)
        rng = random.Random(28)
        for _ in range(40):
            start, length = rng.randrange(0, 7 * MIB) & ~511, rng.randrange(1, 200) * 512
            cmd = rng.choice((nbd.CMD_WRITE, nbd.CMD_WRITE, nbd.CMD_WRITE_ZEROES, nbd.CMD_TRIM))
            c.call(cmd, offset + start, length, data=rng.randbytes(length) if cmd == nbd.CMD_WRITE else b"")
        check_zero_extents(c, offset, 8 * MIB)


def rule_28_req_one_gives_one_extent_within_the_request(t):
    offset = t.region(MIB)
    with t.connect(meta=True) as c:
        c.call(nbd.CMD_WRITE_ZEROES, offset, MIB)
        c.write(offset + 65536, pattern(28, 65536))
        for start, length in ((0, MIB), (0, 512), (0, 4096), (65536, MIB - 65536), (66048, 512), (131072, 512)):
            reply = c.call(nbd.CMD_BLOCK_STATUS, offset + start, length, nbd.REQ_ONE)
            check(not reply.error, f"error {reply.error}")
            for extents in reply.status.values():
                expect(len(extents), 1, what="extents")
                check(0 < extents[0][0] <= length, f"extent of {extents[0][0]} for a request of {length}")


def rule_28_block_status_of_the_whole_export(t):
    with t.connect(meta=True) as c:
        position = 0
        while position < c.size:
            reply = c.call(nbd.CMD_BLOCK_STATUS, position, min(c.size - position, 2**32 - 65536))
            check(not reply.error, f"error {reply.error}")
            position += sum(size for size, _ in next(iter(reply.status.values())))
        expect(position, c.size, what="end of the extents")


def rule_28_block_status_not_negotiated_is_einval(t):
    for structured in (False, True):
        with t.connect(structured=structured) as c:
            expect(c.error(nbd.CMD_BLOCK_STATUS, 0, 4096), "EINVAL")
            t.alive(c)


def rule_29_flush_with_offset_or_length_stays_in_step(t):
    t.need(nbd.SEND_FLUSH, "FLUSH")
    with t.connect() as c:
        for offset, length in ((0, 512), (512, 0), (2**64 - 1, 2**32 - 1)):
            expect(c.error(nbd.CMD_FLUSH, offset, length), "ok", "EINVAL")
        expect(c.error(nbd.CMD_FLUSH), "ok")
        t.alive(c)


def rule_29_flush_on_one_connection_covers_all(t):
    t.need(nbd.CAN_MULTI_CONN, "CAN_MULTI_CONN")
    offset = t.region(MIB)
    clients = [t.connect() for _ in range(4)]
    for turn in range(50):
        writer, flusher, reader = (clients[(turn + i) % 4] for i in range(3))
        data = pattern(turn, 4096)
        writer.write(offset + 4096 * turn, data)
        expect(flusher.error(nbd.CMD_FLUSH), "ok")
        check(reader.read(offset + 4096 * turn, 4096) == data, "another connection does not see the write")
    for c in clients:
        c.close()


def rule_33_cookies_may_repeat_and_be_anything(t):
    for structured in (False, True):
        with t.connect(structured=structured) as c:
            for cookie in (0, 1, 2**63, 2**64 - 1):
                expect(c.call(nbd.CMD_READ, 0, 512, cookie=cookie).cookie, cookie, what="cookie")
    with t.connect() as c:
        for _ in range(64):
            c.request(nbd.CMD_READ, 0, 4096, cookie=7)
        for _ in range(64):
            expect(c.reply().cookie, 7, what="cookie")
        t.alive(c)


def rule_33_every_request_is_answered_once(t):
    offset = t.region(4 * MIB)
    for structured in (False, True):
        with t.connect(structured=structured) as c:
            rng = random.Random(33)
            batch = bytearray()
            for cookie in range(1000):
                cmd = rng.choice((nbd.CMD_READ, nbd.CMD_WRITE, nbd.CMD_FLUSH))
                length = 0 if cmd == nbd.CMD_FLUSH else rng.randrange(1, 9) * 512
                at = 0 if cmd == nbd.CMD_FLUSH else offset + rng.randrange(0, 8000) * 512
                c.expect(cookie, length if cmd == nbd.CMD_READ else None)
                batch += nbd.request(cmd, at, length, 0, cookie, bytes(length) if cmd == nbd.CMD_WRITE else b"")
            sender = threading.Thread(target=c.send, args=(batch,), daemon=True)
            sender.start()
            seen = [c.reply() for _ in range(1000)]
            sender.join()
            check(sorted(r.cookie for r in seen) == list(range(1000)), "cookies do not match")
            check(not any(r.error for r in seen), "an error")
            t.alive(c)


def rule_33_requests_may_arrive_in_any_pieces(t):
    offset = t.region(MIB)
    data = pattern(33, 2560)
    write = nbd.request(nbd.CMD_WRITE, offset, len(data), 0, 1, data)
    read = nbd.request(nbd.CMD_READ, offset, len(data), 0, 1)
    for step in (1, 27, 29, 1000):
        with t.connect() as c:
            for stream, length in ((write, None), (read, len(data))):
                c.expect(1, length)
                for i in range(0, len(stream), step):
                    c.send(stream[i:i + step])
                reply = c.reply()
                check(not reply.error, f"pieces of {step}: error {reply.error}")
            check(reply.content[0][1] == data, f"pieces of {step}: data is wrong")


def rule_35_block_sizes_make_sense(t):
    with t.connect(infos=(nbd.INFO_BLOCK_SIZE,)) as c:
        if nbd.INFO_BLOCK_SIZE not in c.infos:
            raise Skip("block sizes not told")
        least, preferred, most = struct.unpack(">III", c.infos[nbd.INFO_BLOCK_SIZE])
        told = f"minimum {least}, preferred {preferred}, maximum {most}"
        check(least and least & (least - 1) == 0 and least <= 65536, told)
        check(preferred & (preferred - 1) == 0 and preferred >= max(least, 512), told)
        check(most >= max(preferred, min(MIB, c.size)), told)
        check(c.size % least == 0, f"size {c.size}, {told}")


def rule_35_client_that_did_not_ask_may_use_512_bytes(t):
    offset = t.region(MIB)
    with t.connect() as c:
        model = bytearray(pattern(35, 65536))
        c.write(offset, model)
        for i in range(0, 128, 3):
            model[i * 512:i * 512 + 512] = pattern(i, 512)
            c.write(offset + i * 512, model[i * 512:i * 512 + 512])
        check(c.read(offset, 65536) == model, "512-byte writes do not read back")
        check(all(c.read(offset + i * 512, 512) == model[i * 512:i * 512 + 512] for i in range(128)),
              "512-byte reads are wrong")


def rule_35_single_bytes_are_served_or_refused_cleanly(t):
    offset = t.region(MIB)
    with t.connect() as c:
        model = bytearray(pattern(35, 8192))
        c.write(offset, model)
        for start, length in ((0, 1), (511, 2), (1000, 3000), (4095, 1), (8191, 1)):
            data = pattern(start, length)
            error = c.error(nbd.CMD_WRITE, offset + start, length, 0, data)
            expect(error, "ok", "EINVAL")
            if error == "ok":
                model[start:start + length] = data
            check(c.read(offset, 8192) == model, f"content wrong after a write of {start}+{length}: {error}")
            reply = c.call(nbd.CMD_READ, offset + start, length)
            expect(nbd.ERROR_NAMES[reply.error], "ok", "EINVAL")
            if not reply.error:
                check(reply.content[0][1] == model[start:start + length], f"read of {start}+{length} is wrong")


def rule_35_random_io_agrees_with_a_model(t):
    size = 4 * MIB
    offset = t.region(size)
    rng, model = random.Random(350), bytearray(size)
    with t.connect(meta=True) as c:
        commands = [cmd for cmd in offered(c) if cmd in WRITE_COMMANDS]
        c.call(nbd.CMD_WRITE_ZEROES, offset, size)
        for _ in range(300):
            start = rng.randrange(0, size // 512) * 512
            length = min(size - start, rng.choice((512, 4096, 8192, 65536, 131072, rng.randrange(1, 600) * 512)))
            cmd = rng.choice(commands)
            data = rng.randbytes(length) if cmd == nbd.CMD_WRITE else b""
            expect(c.error(cmd, offset + start, length, 0, data), "ok")
            if cmd == nbd.CMD_TRIM:  # unspecified by the protocol: take what is there now
                data = c.read(offset + start, length)
            model[start:start + length] = data or bytes(length)
        check(c.read(offset, size) == model, "the content differs from the model")
        check_zero_extents(c, offset, size)

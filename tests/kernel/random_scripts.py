# SPDX-License-Identifier: MIT
"""Scripts of dmsetup commands drawn from seeds, as transcripts without answers.

`verbs`: every verb on a few devices, right and wrong. `stacks`: what is written through stacks of targets, while
tables are swapped, and where it ends up. `snapshots`: an origin and its snapshots, and their stores to the byte.
Whoever runs them learns the answers; nothing here knows them. Requests never meet a suspended device or a path that
queues, and no device is below itself: a script comes to its end anywhere. Nodes in /dev/mapper are left alone:
without udev they are dmsetup's own affair.
"""

import random

import transcripts

DISKS = [f"/dev/vd{letter}" for letter in "abcde"]
DISK_SECTORS = 32768
REMARK = "# disks: 5 of 16 MiB"

KEY = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
LOWER = ["low", "low2"]  # used by others; renamed among themselves only
UPPER = ["a", "b", "c-d", "e+f"]
UUIDS = ["UUID-1", "LVM-2", "u/3 x"]
ODD_NAMES = ["x/y", "", "n" * 128]
ODD_WORDS = ["x", "-1", "+1", "007", "0x10", "4294967296", "18446744073709551616", "/dev/nosuch", "99:99", "ZERO"]

# Resumes and removes everything, so that the next script finds nothing.
CLEAN = """exec 7<&-
dmsetup info -c --noheadings -o name 2>/dev/null | while read -r name; do dmsetup resume "$name"; done >/dev/null 2>&1
dmsetup remove_all --force >/dev/null 2>&1; dmsetup ls"""
DIGEST = """digest() { for device; do dd if="$device" iflag=direct bs=64k 2>/dev/null | sha256sum; done; }"""


def quoted(text):
    return "'" + text + "'"


class Script:
    """A random script in the making."""

    def __init__(self, kind, seed):
        self.draw = random.Random(f"{kind} {seed}")
        self.commands = []
        self.group = f"{kind} {seed}"

    def add(self, text):
        self.commands.append(transcripts.Command(self.group, text))

    def chance(self, percent):
        return self.draw.randrange(100) < percent

    def one(self, *words):
        return self.draw.choice(words)

    def transcript(self):
        self.add(CLEAN)
        return transcripts.Transcript([f"# {self.group}", REMARK], self.commands)


class Verbs(Script):
    def __init__(self, kind, seed):
        super().__init__(kind, seed)
        self.likely = []  # names that there may be

    def name(self):
        if self.chance(4):
            return quoted(self.draw.choice(ODD_NAMES))
        if self.likely and self.chance(75):
            return quoted(self.draw.choice(self.likely))
        return quoted(self.draw.choice(LOWER + UPPER))

    def device(self):
        """One way or another to say which device."""
        way = self.draw.randrange(20)
        if way == 0:
            return "-u " + quoted(self.draw.choice(UUIDS))
        if way == 1:
            return f"-j 253 -m {self.draw.randrange(5)}"
        if way == 2:
            return "/dev/mapper/" + self.draw.choice(LOWER + ["a", "b"])
        if way == 3:
            return f"/dev/dm-{self.draw.randrange(4)}"
        return self.name()

    def below(self, lower):
        """A device for a table; `lower`: for that of a device that others may use."""
        if lower or self.chance(50):
            return self.draw.choice(DISKS + ["254:16"])
        return "/dev/mapper/" + self.draw.choice(LOWER)

    def line(self, start, lower):
        sectors = self.draw.choice([8, 16, 64, 120, 1024])
        def below():
            return self.below(lower)
        kind, words = self.draw.choice([
            ("linear", [below(), self.draw.randrange(64)]),
            ("striped", [2, 4, below(), 0, below(), 8]),
            ("zero", []),
            ("error", self.draw.choice([[], ["some", "words"]])),
            ("delay", [below(), 0, 5, below(), 8, 0]),
            ("delay", [below(), 0, 0]),
            ("flakey", [below(), 0, 60, 0, self.one("0", "1 drop_writes", "1 error_writes")]),
            ("flakey", [below(), 8, 0, 60, 5, "corrupt_bio_byte", 1, self.one("r", "w"), 7, 0]),
            ("crypt", [self.one("aes-xts-plain64", "aes-cbc-essiv:sha256"), KEY, 0, below(), 0]),
            ("log-writes", [below(), "/dev/vde"]),
            ("snapshot-origin", [below()]),
            ("multipath", [self.one("2 queue_mode bio", "3 queue_mode bio queue_if_no_path", "0"), 0, 2,
                           self.one(1, 2), "round-robin", 0, 1, self.one("0", "1"), below(), 1,
                           "service-time 0 1 2", below(), 1, 2]),
        ])
        words = " ".join(map(str, words)).split()
        # A log is written when its target goes: never one on a device that may be suspended.
        if words and self.chance(12) and kind != "log-writes":
            at = self.draw.randrange(len(words))
            words[at:at + 1] = self.draw.choice([[], [self.draw.choice(ODD_WORDS)], [words[at], words[at]]])
        if self.chance(3):
            sectors = self.draw.choice([0, 7, 99999, 18014398509481983])
        if self.chance(2):
            kind = self.one("nosuch", "Linear", "thin-pools")
        return f"{start} {sectors} {' '.join([kind, *words])}", start + sectors

    def table(self, lower):
        lines, start = [], 0
        for _ in range(self.draw.choice([1, 1, 1, 2, 3])):
            text, start = self.line(start, lower)
            if self.chance(3):
                start += 8
            lines.append(text)
        return lines

    def create(self):
        free = [name for name in LOWER + UPPER if name not in self.likely]
        name = quoted(self.draw.choice(free)) if free and self.chance(70) else self.name()
        if name.strip("'") not in ODD_NAMES:
            self.likely.append(name.strip("'"))
        lines = self.table(name.strip("'") in LOWER)
        options = ""
        if self.chance(30):
            options += " -u " + quoted(self.draw.choice(UUIDS))
        if self.chance(10):
            options += " -r"
        if self.chance(8):
            options += f" -j 253 -m {self.draw.randrange(8)}"
        if self.chance(5):
            options += " --addnodeonresume"
        table = quoted("\n".join(lines))
        way = self.draw.randrange(10)
        if way == 0:
            self.add(f"dmsetup create {name} --notable{options}")
        elif way == 1:
            self.add(f"dmsetup create {name}{options} <<<{table}")
        elif way == 2 and "," not in name:
            uuid = self.one("", "", *UUIDS)
            told = ",".join([name.strip("'"), uuid, self.one("", "", "7"), self.one("", "ro", "rw"), *lines])
            self.add(f"dmsetup create --concise {quoted(told)}")
        else:
            self.add(f"dmsetup create {name} --table {table}{options}")

    def load(self):
        device = self.device()
        lower = not any(name in device for name in UPPER if len(name) > 1) and device.strip("'") not in UPPER
        table = quoted("\n".join(self.table(lower)))
        verb = self.one("load", "reload")
        if self.chance(4):
            table = self.one("''", "'# nothing'", "'0 8'", "'0 -8 zero'")
        self.add(self.one(f"dmsetup {verb} {device} --table {table}", f"dmsetup {verb} {device} <<<{table}",
                          f"dmsetup {verb} {device} -r --table {table}",
                          f"dmsetup {verb} {device} --table {table} && dmsetup resume {device}"))

    def states(self):
        flags = self.one("", "", " --noflush", " --nolockfs", " --noflush --nolockfs")
        verb = self.one("suspend", "resume", "resume", "resume", "clear", "wipe_table")
        self.add(f"dmsetup {verb}{flags if verb != 'clear' else ''} {self.device()}")

    def remove(self):
        flags = self.one("", "", "", " --force", " --deferred")
        device = self.device()
        if device.strip("'") in self.likely and self.chance(80):
            self.likely.remove(device.strip("'"))
        self.add(f"dmsetup remove{flags} {device}" + (f" {self.name()}" if self.chance(10) else ""))

    def rename(self):
        pool = self.draw.choice([LOWER, UPPER, UPPER])
        if self.chance(40):
            self.add(f"dmsetup rename {self.name()} --setuuid {quoted(self.draw.choice(UUIDS + ['', 'U' * 129]))}")
            return
        new = self.draw.choice(pool if self.chance(90) else ODD_NAMES)
        old = self.draw.choice([name for name in self.likely if name in pool] or pool)
        if old in self.likely and new in pool:
            self.likely[self.likely.index(old)] = new
        self.add(f"dmsetup rename {quoted(old)} {quoted(new)}")

    def message(self):
        sector = self.one("0", "0", "0", "8", "63", "99999", "x")
        words = self.one(
            "hello", "@cancel_deferred_remove", "@bogus", "key wipe", f"key set {KEY}", "key set 00", "mark one",
            "mark", "fail_path /dev/vda", "reinstate_path 254:0", "fail_path 254:16", "fail_path /dev/mapper/low",
            "switch_group 1", "disable_group 2", "enable_group 2", "queue_if_no_path", "fail_if_no_path", "")
        self.add(f"dmsetup message {self.device()} {sector} {words}".rstrip())

    def ask(self):
        columns = self.one("name,attr,open,segments,events,uuid", "tables_loaded,suspended,readonly,major,minor,name",
                           "name,devnos_used,devs_used,names_using_dev,device_count,device_ref_count",
                           "mangled_name,unmangled_uuid,subsystem,vg_name,lv_name", "read_ahead,name")
        device = self.one("", self.device())
        inactive = self.one("", " --inactive")
        self.add(self.one(
            f"dmsetup info{inactive} {device}", f"dmsetup info -c -o {columns}{inactive} {device}",
            f"dmsetup table{inactive}{self.one('', ' --showkeys', ' --concise')} {device}",
            f"dmsetup status{inactive}{self.one('', ' -v', ' --noflush')} {device}",
            f"dmsetup deps{inactive}{self.one('', ' -o devname', ' -o blkdevname')} {device}",
            f"dmsetup ls{self.one('', ' --tree', ' --tree -o inverted,blkdevname', ' -o blkdevname')}",
            f"dmsetup {self.one('ls', 'table', 'status')} --target {self.one('linear', 'crypt', 'nosuch')}",
            f"dmsetup mangle {device}",
            f"dmsetup wait {self.device()} 4000", f"dmsetup wait -v {self.device()} 4000").rstrip())

    def node(self):
        name = self.one("/dev/mapper/a", "/dev/mapper/low", "/dev/dm-0", "/dev/mapper/b")
        self.add(self.one(
            f"blockdev --getsz --getro --getss --getiomin --getioopt {name} 2>/dev/null",
            f"test -b {name}; echo $?", f"{{ exec 7<{name}; }} 2>/dev/null", "exec 7<&-",
            f"dmsetup setgeometry {self.device()} {self.one('10 16 63 0', '1 2', '99999999 1 1 0')}"))

    def make(self, count):
        kinds = [(self.create, 24), (self.load, 14), (self.states, 16), (self.remove, 9), (self.rename, 9),
                 (self.message, 8), (self.ask, 28), (self.node, 6)]
        for _ in range(count):
            self.draw.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]()
        for device in ("", *map(quoted, LOWER + UPPER)):
            self.add(f"dmsetup info {device}; dmsetup table {device}; dmsetup table --inactive {device}")
        return self.transcript()


class Stacks(Script):
    """Devices l0 to l2 on disks, m0 and m1 on those, t0 and t1 on these. No sector is below two others."""

    def __init__(self, kind, seed):
        super().__init__(kind, seed)
        self.free = [[[disk, 0, DISK_SECTORS] for disk in DISKS[:4]], [], []]  # by level: device, from, to
        self.size = {}

    def area(self, level, sectors):
        """Some so many sectors that a device of this level may have below it, as words; None where there are none."""
        enough = [extent for extent in self.free[level] if extent[2] - extent[1] >= sectors]
        if not enough:
            return None
        extent = self.draw.choice(enough)
        at = min(extent[1] + 8 * self.draw.randrange(16), extent[2] - sectors)
        extent[1] = at + sectors
        return f"{extent[0]} {at}"

    def areas(self, level, *lengths):
        found = [self.area(level, sectors) for sectors in lengths]
        return None if None in found else found

    def line(self, level):
        sectors = self.one(64, 96, 256, 480)
        way = self.draw.randrange(9)
        parts = [sectors // 2] * 2 if way == 0 else [sectors] * 2 if way == 1 else [sectors // 3] * 3 \
            if way == 2 and sectors % 24 == 0 else [sectors]
        below = self.areas(level, *parts)
        if below is None:
            return "zero", sectors
        if way == 1:
            return f"delay {below[0]} 0 {below[1]} 1", sectors
        if len(below) > 1:
            return f"striped {len(below)} {self.one(2, 8, 16) if way == 0 else 8} {' '.join(below)}", sectors
        return self.one(
            f"linear {below[0]}", f"linear {below[0]}", f"striped 1 8 {below[0]}", f"delay {below[0]} {self.one(0, 1)}",
            f"flakey {below[0]} 60 0", f"flakey {below[0]} 0 60 1 drop_writes", "zero",
            f"flakey {below[0]} 0 60 5 corrupt_bio_byte 3 w 255 0",
            f"crypt aes-xts-plain64 {KEY} {self.one(0, 8)} {below[0]}",
            f"crypt aes-cbc-essiv:sha256 {KEY[:32]} 0 {below[0]} 1 allow_discards"), sectors

    def load(self, name, level, way):
        lines, start = [], 0
        for _ in range(self.one(1, 2, 3)):
            text, sectors = self.line(level)
            lines.append(f"{start} {sectors} {text}")
            start += sectors
        self.add(way.format(name=name, table=quoted("\n".join(lines))))
        self.size[name] = start

    def write(self, name):
        count = self.one(1, 3, 8, 16, 40, 64)
        at = self.draw.randrange(self.size[name] - count + 1)
        self.add(f"gen fill /dev/mapper/{name} {self.draw.randrange(1000)} {at} {count}")

    def make(self, count):
        self.add(DIGEST)
        for number, disk in enumerate(DISKS[:4]):
            self.add(f"gen fill {disk} {number} 0 4096")
        for level, names in enumerate((["l0", "l1", "l2"], ["m0", "m1"], ["t0", "t1"])):
            for name in names:
                self.load(name, level, "dmsetup create {name} --table {table}")
                if level < 2:
                    self.free[level + 1].append([f"/dev/mapper/{name}", 0, self.size[name]])
        for _ in range(count):
            name = self.draw.choice(list(self.size))
            if self.chance(70):
                self.write(name)
            elif self.chance(50) and name in ("t0", "t1"):
                self.load(name, 0, "dmsetup load {name} --table {table} && dmsetup resume {name}")
            else:
                self.add(f"digest /dev/mapper/{name}")
        self.add("dmsetup status; dmsetup table")
        self.add("digest " + " ".join([*(f"/dev/mapper/{name}" for name in self.size), *DISKS[:4]]))
        return self.transcript()


class Snapshots(Script):
    """The origin vda, and snapshots of it with their stores on vdb to vdd."""

    SECTORS = 8192

    def make(self, count):
        self.add(DIGEST)
        self.add(f"gen fill /dev/vda {self.draw.randrange(1000)} 0 {self.SECTORS}")
        self.add(f"dmsetup create org --table '0 {self.SECTORS} snapshot-origin /dev/vda'")
        stores, live = {}, {}
        for number, disk in enumerate(DISKS[1:4]):
            size = self.draw.choice([DISK_SECTORS, DISK_SECTORS, 8192, 512])
            self.add(f"dmsetup create store{number} --table '0 {size} linear {disk} 0'")
            stores[f"s{number}"] = (f"/dev/mapper/store{number}", self.one("P", "P", "PO", "N"), self.one(8, 16, 32))
        for _ in range(count):
            name = self.draw.choice(sorted(stores))
            store, kind, chunk = stores[name]
            if name not in live:
                self.add(f"dmsetup suspend org; dmsetup create {name} --table "
                         f"'0 {self.SECTORS} snapshot /dev/vda {store} {kind} {chunk}'; dmsetup resume org")
                live[name] = True
            elif self.chance(8):
                self.add(f"dmsetup remove {name}")
                del live[name]
                if kind == "N":
                    continue
                if self.chance(30):
                    self.add(f"dmsetup table {name}; digest {store}")
            elif self.chance(10):
                self.add(f"dmsetup load {name} --table '0 {self.SECTORS} snapshot /dev/vda {store} {kind} {chunk}' && "
                         f"dmsetup resume {name}; dmsetup table {name}")
            else:
                self.request("/dev/mapper/" + self.one(name, name, "org"))
            if self.chance(30):
                self.add("dmsetup status; dmsetup info -c --noheadings -o name,events")
        self.add("dmsetup status; dmsetup table")
        self.add(f"digest /dev/mapper/org {' '.join('/dev/mapper/' + name for name in sorted(live))}")
        for name in sorted(live):
            self.add(f"dmsetup remove {name}")
        self.add(f"digest {' '.join(DISKS[:4])}")
        return self.transcript()

    def request(self, device):
        position = self.draw.randrange(self.SECTORS - 512)
        if self.chance(70):
            count = self.draw.choice([1, 8, 16, 50, 200])
            self.add(f"gen fill {device} {self.draw.randrange(1000)} {position} {count}")
        else:
            self.add(f"gen scatter {device} {self.draw.randrange(1000)} 8 {self.one(5, 40)} {self.one(7, 13)} 3 "
                     f"{self.one(2, 8)}")


def script(kind, seed, count):
    """The transcript, still without answers, of about `count` commands."""
    return {"verbs": Verbs, "stacks": Stacks, "snapshots": Snapshots}[kind](kind, seed).make(count)

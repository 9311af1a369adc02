# SPDX-License-Identifier: MIT
"""Medians, ratios, targets, and how they are written down."""
from dataclasses import asdict, dataclass
from statistics import median

MEMORY_RATE, MEMORY_CPU = 1.4, 0.70   # against nbdkit's memory plugin
FILE_RATE, FILE_CPU = 1.1, 0.75       # against nbdkit's file plugin
OTHER_RATE = 0.95                     # against the best peer
OVERLAY_READ_CPU_US, FIRST_WRITE_CPU_US = 3.0, 30.0


@dataclass(frozen=True)
class Row:
    """One line of the comparison."""
    backing: str    # memory, tmpfs, cached, overlay-1 ...
    transport: str  # unix, tcp
    load: object    # clients.Workload
    client: str     # nbdload, fio

    @property
    def id(self):
        return f"{self.backing}/{self.transport}/{self.load.name}/{self.client}"


def medians(results):
    """Field by field over the rounds of one server."""
    fields = asdict(results[0])
    return {name: median(getattr(r, name) for r in results) for name in fields}


def rate(values):
    return values["ops_per_s"]


def check_relative(row, ours, peers):
    """(text of the target, met?, what was reached)"""
    rival, least, most_cpu = None, OTHER_RATE, None
    deep = not row.load.is_bulk and row.load.depth >= 32 and row.client == "nbdload"
    if deep and row.backing == "memory":
        rival, least, most_cpu = "nbdkit-memory", MEMORY_RATE, MEMORY_CPU
    elif deep and row.backing in ("tmpfs", "cached"):
        rival, least, most_cpu = "nbdkit-file", FILE_RATE, FILE_CPU
    best = max(peers, key=lambda name: rate(peers[name]))
    if rival not in peers:
        rival, least, most_cpu = best, OTHER_RATE, None
    got = rate(ours) / rate(peers[rival])
    met = got >= least
    target = f"≥ {least:g} × {rival}"
    reached = f"{got:.2f}"
    if most_cpu is not None:
        cpu = ours["server_cpu_us"] / max(peers[rival]["server_cpu_us"], 1e-9)
        met = met and cpu <= most_cpu
        target += f", CPU ≤ {most_cpu:g}"
        reached += f", CPU {cpu:.2f}"
        # The row must also hold against the fastest peer, whoever that is.
        against_best = rate(ours) / rate(peers[best])
        if best != rival:
            reached += f"; {against_best:.2f} of {best}"
        met = met and against_best >= OTHER_RATE
    return target, met, reached


def spread(row, ours, results):
    """What more CPUs bring our server: a text for a row that may use them."""
    narrow = results.get(row.id.replace("-cpus/", "/"), {}).get("lbd")
    if not row.load.everywhere or not narrow:
        return ""
    used = rate(ours) * ours["server_cpu_us"] / 1e6
    return f"; on {used:.2f} CPUs {rate(ours) / rate(medians(narrow)):.2f} times the rate of one"


def check(row, servers):
    """The target of a row; None where our server or every peer is missing."""
    ours = servers.get("lbd")
    peers = {name: values for name, values in servers.items() if name != "lbd"}
    if ours is None:
        return None
    if row.backing.startswith("overlay-") and row.load.depth >= 32 and not row.load.everywhere:
        most = FIRST_WRITE_CPU_US if row.load.write else OVERLAY_READ_CPU_US
        cpu = ours["server_cpu_us"]
        return f"CPU ≤ {most:g} µs", cpu <= most, f"{cpu:.2f} µs"
    return check_relative(row, ours, peers) if peers else None


def cell(row, values):
    if row.load.is_bulk:
        speed = f"{values['bytes_per_s'] / 1e6:.0f} MB/s"
    else:
        speed = f"{values['ops_per_s'] / 1000:.1f} k"
    return f"{speed} · {values['server_cpu_us']:.2f} µs"


def summary(rows, results):
    """One dict per row, the shape of the JSON output."""
    lines = []
    for row in rows:
        servers = {name: medians(runs) for name, runs in results.get(row.id, {}).items() if runs}
        if not servers:
            continue
        verdict = check(row, servers)
        if verdict:
            verdict = verdict[:2] + (verdict[2] + spread(row, servers["lbd"], results),)
        lines.append({
            "row": row.id, "servers": servers,
            "rounds": {name: [asdict(r) for r in runs] for name, runs in results[row.id].items()},
            "target": verdict and verdict[0], "met": verdict and verdict[1],
            "reached": verdict and verdict[2]})
    return lines


def section_table(rows, by_id, server_order):
    names = [n for n in server_order if any(n in by_id[r.id]["servers"] for r in rows)]
    out = ["| load | client | " + " | ".join(names) + " | target | reached | |",
           "|---|---|" + "---|" * (len(names) + 3)]
    for row in rows:
        line = by_id[row.id]
        cells = [cell(row, line["servers"][n]) if n in line["servers"] else "–" for n in names]
        verdict = "" if line["met"] is None else ("met" if line["met"] else "**short**")
        out.append(f"| {row.load.name} | {row.client} | " + " | ".join(cells)
                   + f" | {line['target'] or ''} | {line['reached'] or ''} | {verdict} |")
    return out


def markdown(rows, lines, server_order, heading):
    """`heading`: lines that say where and how this was measured."""
    by_id = {line["row"]: line for line in lines}
    out = list(heading) + [""]
    out.append("A cell is the median rate and the server's CPU time per operation.")
    sections = {}
    for row in rows:
        if row.id in by_id:
            sections.setdefault((row.backing, row.transport), []).append(row)
    for (backing, transport), members in sections.items():
        out += ["", f"### {backing}, {transport}", ""]
        out += section_table(members, by_id, server_order)
    judged = [line for line in lines if line["met"] is not None]
    met = sum(1 for line in judged if line["met"])
    out += ["", f"{met} of {len(judged)} rows with a target meet it."]
    return "\n".join(out) + "\n"

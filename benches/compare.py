#!/usr/bin/env python3
"""Compares esker with restic, borg, rustic and bupstash, whichever are on PATH, over the same inputs.

usage: compare.py ESKER CORPORA [--runs N] [--out FOLDER] [--only NAME,...] [--tools NAME,...] [--before ESKER]

CORPORA is a folder that corpora.py filled. Everything is read once before, so that it is in the page cache;
repositories lie on /dev/shm. zstd level 3 everywhere. The order of tools changes with each run; whatever is
restored is compared byte for byte. Medians are printed as tables, written as Markdown and as an SVG plot.

--before names another esker, built of an earlier commit (scripts/build-at.sh): it takes part as the tool "before",
and a section compares the two run by run, also by what each takes of restic's time.

Cases: of pg, redis and kernel the first night, the second, the second again, and a dump of the second; random
bytes; 14 nights of pg, pruned to three; 60 nights of a smaller export.
"""
import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("esker")
parser.add_argument("corpora")
parser.add_argument("--runs", type=int, default=5)
parser.add_argument("--out", default="bench-out")
parser.add_argument("--only", default="pg,redis,kernel,random,fourteen,sixty")
parser.add_argument("--tools", default="esker,before,restic,borg,rustic,bupstash")
parser.add_argument("--before")
options = parser.parse_args()
only = options.only.split(",")


class Tool:
    """A tool: its commands, as argument lists; {repo} and the like are filled in."""

    def __init__(self, name, binary, env, init, stream, dump):
        self.name, self.binary, self.env = name, shutil.which(binary), env
        self.commands = {"init": init, "stream": stream, "dump": dump}


def esker(name, binary):
    return Tool(name, binary, {"ESKER_PASSWORD": "x", "ESKER_CACHE_DIR": "{cache}"},
                "init -q -r {repo} --parity off", "backup -q -r {repo} --compression 3 --stdin --stdin-filename s",
                "dump -r {repo} {snapshot} s")


TOOLS = [
    esker("esker", options.esker),
    *([esker("before", options.before)] if options.before else []),
    Tool("restic", "restic", {"RESTIC_PASSWORD": "x", "RESTIC_CACHE_DIR": "{cache}"},
         "init -q -r {repo}", "backup -q -r {repo} --compression auto --stdin --stdin-filename s",
         "dump -q -r {repo} {snapshot} s"),
    Tool("borg", "borg", {"BORG_PASSPHRASE": "x", "BORG_CACHE_DIR": "{cache}", "BORG_CONFIG_DIR": "{cache}", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes", "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"},
         "init -e repokey-blake2 {repo}", "create -C zstd,3 --stdin-name s {repo}::s-{count} -",
         "extract --stdout {repo}::s-{last}"),
    Tool("rustic", "rustic", {"RUSTIC_PASSWORD": "x", "RUSTIC_CACHE_DIR": "{cache}", "RUSTIC_NO_PROGRESS": "true"},
         "-r {repo} init --set-compression 3", "-r {repo} backup --force --stdin-filename s -",
         "-r {repo} dump {snapshot}:s"),
    Tool("bupstash", "bupstash", {"BUPSTASH_KEY": "{repo}.key", "BUPSTASH_REPOSITORY": "{repo}", "BUPSTASH_SEND_LOG": "{cache}/log"},
         "init", "put -q --compression zstd:3 name=s{count} -",
         "get name=s{last}"),
]


class Bench:
    """One tool's repository."""

    def __init__(self, tool, base, label):
        self.tool, self.count, self.last = tool, 0, 0
        self.repo, self.cache = f"{base}/{tool.name}-{label}", f"{base}/cache-{tool.name}-{label}"
        os.makedirs(self.cache)
        if tool.name == "bupstash":
            subprocess.run([tool.binary, "new-key", "-o", self.repo + ".key"], check=True)
        self.run("init")

    def env(self):
        return dict(os.environ, **{key: self.fill(value) for key, value in self.tool.env.items()})

    def fill(self, text, snapshot="latest"):
        return text.format(repo=self.repo, cache=self.cache, count=self.count, last=self.last, snapshot=snapshot)

    def run(self, command, stdin=None, stdout=subprocess.DEVNULL, snapshot="latest"):
        self.count += 1
        if command == "stream":
            self.last = self.count
        args = [self.tool.binary] + self.fill(self.tool.commands[command], snapshot).split()
        start = time.monotonic()
        child = subprocess.Popen(args, env=self.env(), stdin=stdin or subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE)
        error = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - start
        if child.returncode:
            raise SystemExit(f"{self.tool.name} {command} failed: {error.decode(errors='replace')[-500:]}")
        return {"seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss / 1024}

    def size(self):
        return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(self.repo) for name in names) / 1e6

    def backup(self, path):
        before = self.size()
        with open(path, "rb") as file:
            figures = self.run("stream", stdin=file)
        return dict(figures, added=self.size() - before)

    def dump(self, path, snapshot="latest"):
        with tempfile.TemporaryFile(dir="/dev/shm") as out:
            figures = self.run("dump", stdout=out, snapshot=snapshot)
            out.seek(0)
            if subprocess.run(["cmp", "-", path], stdin=out).returncode:
                raise SystemExit(f"{self.tool.name}: what was dumped is not what was stored")
        return figures

    def esker(self, *args):
        return subprocess.run([self.tool.binary, "-r", self.repo, *args], env=self.env(), check=True, capture_output=True, text=True).stdout

    def remove(self):
        shutil.rmtree(self.repo)
        shutil.rmtree(self.cache)


def warm(path):
    with open(path, "rb") as file:
        while file.read(1 << 22):
            pass


def nights(name):
    """The versions of a stream, in order."""
    return sorted(f"{options.corpora}/{file}" for file in os.listdir(options.corpora) if file.startswith(name + "-") and not file.endswith("version"))


def two_nights(tool, base, name, number):
    first, second = nights(name)[:2]
    bench = Bench(tool, base, f"{name}-{number}")
    rows = {f"{name}: first night": bench.backup(first), f"{name}: dump of it": bench.dump(first),
            f"{name}: second night": bench.backup(second), f"{name}: the same again": bench.backup(second),
            f"{name}: dump of the second": bench.dump(second)}
    bench.remove()
    return rows


def incompressible(tool, base, number):
    bench = Bench(tool, base, f"random-{number}")
    rows = {"random bytes": bench.backup(f"{options.corpora}/random")}
    bench.remove()
    return rows


def median_dump(bench, path, snapshot):
    return statistics.median(bench.dump(path, snapshot)["seconds"] for _ in range(min(options.runs, 5)))


def many_nights(tools, base, name, lines):
    """All nights into one repository: its size, the speed of the last against the first, and a prune."""
    paths = nights(name)
    for tool in [tool for tool in tools if tool.name in ("esker", "restic")]:
        if tool.name == "restic" and name != "pg":
            continue
        bench = Bench(tool, base, f"{name}-all")
        taken = [bench.backup(path) for path in paths]
        lines.append(f"{name}, {len(paths)} nights, {tool.name}: repository {bench.size():.1f} MB, nights 2 to {len(paths)} "
                     f"{min(t['added'] for t in taken[1:]):.1f} to {max(t['added'] for t in taken[1:]):.1f} MB, "
                     f"at most {max(t['rss'] for t in taken):.0f} MiB of memory")
        if tool.name == "esker":
            early = statistics.median(t["seconds"] for t in taken[1:6])
            late = statistics.median(t["seconds"] for t in taken[-5:])
            snapshots = [found["id"] for found in json.loads(bench.esker("snapshots", "--json"))]
            one, last = median_dump(bench, paths[0], snapshots[0]), median_dump(bench, paths[-1], snapshots[-1])
            lines.append(f"{name}: backup of nights 2 to 6 {early:.2f} s, of the last five {late:.2f} s ({early / late:.2f} of the speed); "
                         f"dump of night 1 {one:.2f} s, of night {len(paths)} {last:.2f} s ({one / last:.2f} of the speed)")
            bench.esker("forget", "--keep-last", "3", "--prune")
            bench.esker("check", "--read-data")
            for path, snapshot in zip(paths[-3:], snapshots[-3:]):
                bench.dump(path, snapshot)
            pruned, fresh = bench.size(), Bench(tool, base, f"{name}-fresh")
            for path in paths[-3:]:
                fresh.backup(path)
            lines.append(f"{name}: forget --keep-last 3 --prune leaves {pruned:.1f} MB, clean under check --read-data, every night "
                         f"restores; the same three nights fresh {fresh.size():.1f} MB ({pruned / fresh.size():.2f}x)")
            fresh.remove()
        bench.remove()
        print(f"{name}: all nights, {tool.name} done", file=sys.stderr)


def main():
    wanted = options.tools.split(",")
    tools = [tool for tool in TOOLS if tool.binary and tool.name in wanted]
    base = tempfile.mkdtemp(prefix="esker-bench-", dir="/dev/shm")
    results, lines = {}, []
    try:
        for name in [name for name in ("pg", "redis", "kernel", "random") if name in only]:
            for path in [f"{options.corpora}/random"] if name == "random" else nights(name)[:2]:
                warm(path)
            for number in range(options.runs):
                for tool in random.Random(number).sample(tools, len(tools)):
                    rows = incompressible(tool, base, number) if name == "random" else two_nights(tool, base, name, number)
                    for row, figures in rows.items():
                        results.setdefault(row, {}).setdefault(tool.name, []).append(figures)
                    print(f"{name}, run {number + 1}: {tool.name} done, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        for part, name in (("fourteen", "pg"), ("sixty", "small")):
            if part in only:
                many_nights(tools, base, name, lines)
        report(results, tools, lines, base)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def cpu_model():
    with open("/proc/cpuinfo") as file:
        return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))


def roofline(medians, tools, base):
    """esker's share of what the stages allow on this machine, with and without the start, which costs the same for one byte."""
    binary, lines = tools[0].binary, []
    bench = Bench(tools[0], base, "start")
    with open(f"{base}/byte", "wb") as file:
        file.write(b"x")
    start = statistics.median(bench.backup(f"{base}/byte")["seconds"] for _ in range(9))
    bench.remove()
    cases = (("pg", "first", "pg: first night", 0), ("pg", "changed", "pg: second night", 1), ("pg", "duplicate", "pg: the same again", 1),
             ("pg", "restore", "pg: dump of it", 0), ("random", "first", "random bytes", 0))
    for name, case, row, night in cases:
        if row in medians:
            path = f"{options.corpora}/random" if name == "random" else nights(name)[night]
            text = subprocess.run([binary, "bench", "--json", "--calibrate", "--scratch", "/dev/shm", "--size", "2G", path], check=True, capture_output=True, text=True).stdout
            limit = json.loads(text.splitlines()[-1])["roofline_bytes_per_second"][case] / 1e6
            size, seconds = os.path.getsize(path) / 1e6, medians[row]["esker"]["seconds"]
            whole, rest = size / seconds, size / (seconds - start)
            lines.append(f"- {row}: {whole:.0f} MB/s, {100 * whole / limit:.0f} % of the {limit:.0f} that the stages allow; {100 * rest / limit:.0f} % without the start")
    return ["", f"Against the roofline (`esker bench --calibrate`); the start, with unlocking, takes {start:.3f} s:", "", *lines]


def against_before(results):
    """esker beside the commit before: of each case the ratio of each run, since what slows a machine slows both."""
    def spread(values):
        return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"

    lines = ["", "Against the commit before: its seconds, divided by esker's in the same run: the median, and the least and the most. "
             "Within noise if 1 is in between. Behind it restic's seconds, divided by esker's and by those of the commit before.", "",
             "| case | before / esker | restic / esker | restic / before |", "|---|---|---|---|"]
    for row, by_tool in results.items():
        seconds = {name: [run["seconds"] for run in runs] for name, runs in by_tool.items()}
        pairs = (("before", "esker"), ("restic", "esker"), ("restic", "before"))
        cells = [spread([one / other for one, other in zip(seconds[of], seconds[to])]) if of in seconds else "" for of, to in pairs]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return lines


def report(results, tools, extra, base):
    medians = {row: {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in by_tool.items()}
               for row, by_tool in results.items()}
    versions = [f"before ({os.path.basename(os.path.dirname(tool.binary))}): " * (tool.name == "before") + subprocess.run([tool.binary, "--version" if tool.name != "restic" else "version"], capture_output=True, text=True).stdout.split("\n")[0] for tool in tools]
    lines = [f"{os.cpu_count()} cores of {cpu_model()}, Linux {os.uname().release.split('-')[0]}, median of {options.runs} runs, zstd 3, repositories on tmpfs, "
             f"load at the end {os.getloadavg()[0]:.1f}. " + "; ".join(versions) + ".", "In brackets: times esker's.", "",
             "| case | tool | seconds | CPU seconds | peak MiB | added MB |", "|---|---|---:|---:|---:|---:|"]
    for row, by_tool in medians.items():
        ours = by_tool["esker"]
        for tool in tools:
            cells = []
            for key in ("seconds", "cpu", "rss", "added"):
                if key in ours:
                    value = by_tool[tool.name][key]
                    cells.append(f"{value:.2f} ({value / max(ours[key], 0.001):.2f})" if key != "rss" else f"{value:.0f}")
                else:
                    cells.append("")
            lines.append(f"| {row} | {tool.name} | " + " | ".join(cells) + " |")
    if any(tool.name == "before" for tool in tools):
        lines += against_before(results)
    lines += ["", *[f"- {line}" for line in extra], *roofline(medians, tools, base), ""]
    text = "\n".join(lines)
    print(text)
    os.makedirs(options.out, exist_ok=True)
    with open(f"{options.out}/compare.md", "w") as file:
        file.write(text)
    with open(f"{options.out}/compare.svg", "w") as file:
        file.write(plot(medians, tools))
    print(f"written to {options.out}/compare.md and {options.out}/compare.svg", file=sys.stderr)


def plot(medians, tools):
    """Bars for each case: seconds, and bytes added on the second night; colours for light and dark."""
    colours = {"esker": "#2a9d8f", "before": "#94c9c1", "restic": "#e76f51", "borg": "#e9c46a", "rustic": "#8d7fc7", "bupstash": "#6c9bd2"}
    charts = [(f"{row} (s)", {name: figures["seconds"] for name, figures in by_tool.items()}, "s") for row, by_tool in medians.items()]
    charts += [(f"{row} (MB added)", {name: figures["added"] for name, figures in by_tool.items()}, "MB")
               for row, by_tool in medians.items() if row.endswith("second night")]
    bar, gap, left, width, y, parts = 15, 22, 230, 800, 40, []
    for title, values, unit in charts:
        longest = max(values.values())
        parts.append(f'<text x="{left - 10}" y="{y + bar * len(values) / 2 + 4:.0f}" text-anchor="end">{title}</text>')
        for tool in tools:
            length = values[tool.name] / longest * (width - left - 150)
            parts.append(f'<rect x="{left}" y="{y}" width="{max(length, 1):.1f}" height="{bar - 3}" fill="{colours[tool.name]}"/>')
            parts.append(f'<text x="{left + length + 5:.1f}" y="{y + bar - 4}">{tool.name} {values[tool.name]:.2f} {unit}</text>')
            y += bar
        y += gap
    style = "text{font:12px sans-serif;fill:#333}@media(prefers-color-scheme:dark){text{fill:#ddd}}"
    title = f'<text x="{left}" y="22">lower is better; each case has its own scale (zstd 3, median of {options.runs})</text>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}"><style>{style}</style>{title}{"".join(parts)}</svg>\n'


main()

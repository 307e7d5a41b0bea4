#!/usr/bin/env python3
"""Compares esker with restic, borg, rustic and bupstash, whichever are on PATH, over the same inputs.

usage: compare.py ESKER [--size MB] [--runs N] [--out FOLDER]

Inputs are made from a fixed seed and read once before, so that they are in the page cache; repositories lie
on /dev/shm if it has room. zstd level 3 everywhere. The order of tools changes with each run. Medians are
printed as a table, with CPU seconds, peak memory and repository bytes, all as ratios to esker's too, and
written as Markdown and as an SVG plot.
"""
import argparse
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
parser.add_argument("--size", type=int, default=1000, help="MB in the stream (default 1000)")
parser.add_argument("--runs", type=int, default=3)
parser.add_argument("--out", default="bench-out")
options = parser.parse_args()


def make_stream(path, version):
    """Text like a database dump; version 2 has 1 % of its lines changed, in places scattered all over."""
    rng, change = random.Random(7), random.Random(8)
    words = ["".join(rng.choices("etaoinshrdlucmfwypvbgkqjxz", k=rng.randint(2, 9))) for _ in range(5000)]
    written = number = 0
    with open(path, "w") as file:
        while written < options.size * 1_000_000:
            lines = []
            for _ in range(20_000):
                number += 1
                line = f"{number}\t{rng.choice(words)}\t{rng.choice(words)} {rng.choice(words)}\t{rng.getrandbits(32)}\n"
                if change.random() < 0.01 and version == 2:
                    line = line.replace("\t", "\tchanged ", 1)
                lines.append(line)
            written += file.write("".join(lines))


def make_tree(path):
    rng = random.Random(9)
    for number in range(20_000):
        folder = f"{path}/{number % 100:02}/{number % 7}"
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/{number}", "wb") as file:
            file.write(b"line of text %d\n" % number * rng.randint(1, 400) + rng.randbytes(rng.randint(0, 4000)))


class Tool:
    """A tool: its commands, as argument lists; {repo}, {in} and {out} are filled in."""

    def __init__(self, name, binary, env, init, stream, tree, dump, restore):
        self.name, self.binary, self.env = name, shutil.which(binary), env
        self.commands = {"init": init, "stream": stream, "tree": tree, "dump": dump, "restore": restore}


TOOLS = [
    Tool("esker", options.esker, {"ESKER_PASSWORD": "x", "ESKER_CACHE_DIR": "{cache}"},
         "init -q -r {repo}", "backup -q -r {repo} --compression 3 --stdin --stdin-filename s",
         "backup -q -r {repo} --compression 3 {in}", "dump -r {repo} latest s", "restore -q -r {repo} latest --path {in} --target {out}"),
    Tool("restic", "restic", {"RESTIC_PASSWORD": "x", "RESTIC_CACHE_DIR": "{cache}"},
         "init -q -r {repo}", "backup -q -r {repo} --compression auto --stdin --stdin-filename s",
         "backup -q -r {repo} --compression auto {in}", "dump -q -r {repo} --path /s latest s", "restore -q -r {repo} latest --path {in} --target {out}"),
    Tool("borg", "borg", {"BORG_PASSPHRASE": "x", "BORG_CACHE_DIR": "{cache}", "BORG_CONFIG_DIR": "{cache}", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes", "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"},
         "init -e repokey-blake2 {repo}", "create -C zstd,3 --stdin-name s {repo}::s-{count} -",
         "create -C zstd,3 {repo}::t-{count} {in}", "extract --stdout {repo}::s-{last_s}", "extract {repo}::t-{last_t}"),
    Tool("rustic", "rustic", {"RUSTIC_PASSWORD": "x", "RUSTIC_CACHE_DIR": "{cache}", "RUSTIC_NO_PROGRESS": "true"},
         "-r {repo} init --set-compression 3", "-r {repo} backup --force --stdin-filename s -", "-r {repo} backup {in}",
         "-r {repo} dump --filter-paths s latest:s", "-r {repo} restore latest {out}"),
    Tool("bupstash", "bupstash", {"BUPSTASH_KEY": "{repo}.key", "BUPSTASH_REPOSITORY": "{repo}", "BUPSTASH_SEND_LOG": "{cache}/log"},
         "init", "put -q --compression zstd:3 name=s{count} -", "put -q --compression zstd:3 name=t{count} {in}",
         "get name=s{last_s}", "restore --into {out} name=t{last_t}"),
]


class Bench:
    def __init__(self, tool, base, number):
        self.tool, self.count, self.last = tool, 0, {"s": 0, "t": 0}
        self.repo, self.cache = f"{base}/{tool.name}-{number}", f"{base}/cache-{tool.name}-{number}"
        os.makedirs(self.cache)
        if tool.name == "bupstash":
            subprocess.run([tool.binary, "new-key", "-o", self.repo + ".key"], check=True)
        self.run("init")

    def fill(self, text, source, out):
        values = {"repo": self.repo, "cache": self.cache, "in": source, "out": out, "count": self.count}
        return text.format(**values, last_s=self.last["s"], last_t=self.last["t"])

    def run(self, command, source="", out="", stdin=None, stdout=subprocess.DEVNULL):
        self.count += 1
        if command in ("stream", "tree"):
            self.last["s" if command == "stream" else "t"] = self.count
        env = dict(os.environ, **{key: self.fill(value, source, out) for key, value in self.tool.env.items()})
        args = [self.tool.binary] + self.fill(self.tool.commands[command], source, out).split()
        if out:
            os.makedirs(out, exist_ok=True)
        start = time.monotonic()
        child = subprocess.Popen(args, env=env, cwd=out or None, stdin=stdin or subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE)
        error = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - start
        if child.returncode:
            raise SystemExit(f"{self.tool.name} {command} failed: {error.decode(errors='replace')[-500:]}")
        return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024

    def size(self):
        return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(self.repo) for name in names) / 1e6


def stream(bench, path):
    with open(path, "rb") as file:
        return bench.run("stream", stdin=file) + (bench.size(),)


def dump(bench, path):
    with tempfile.TemporaryFile(dir=os.path.dirname(path)) as out:
        figures = bench.run("dump", stdout=out)
        out.seek(0)
        same = subprocess.run(["cmp", "-", path], stdin=out).returncode == 0
    if not same:
        raise SystemExit(f"{bench.tool.name}: what was dumped is not what was stored")
    return figures + (bench.size(),)


def main():
    tools = [tool for tool in TOOLS if tool.binary]
    work = tempfile.mkdtemp(prefix="esker-bench-")
    shm = "/dev/shm"
    need = options.size * 1_000_000 * 3
    base = tempfile.mkdtemp(dir=shm) if os.path.isdir(shm) and shutil.disk_usage(shm).free > need else tempfile.mkdtemp(dir=work)
    one, two, tree = f"{work}/one", f"{work}/two", f"{work}/tree"
    try:
        make_stream(one, 1)
        make_stream(two, 2)
        make_tree(tree)
        results = {}
        for number in range(options.runs):
            for tool in random.Random(number).sample(tools, len(tools)):
                bench = Bench(tool, base, number)
                rows = {
                    "stream, first": stream(bench, one),
                    "stream, again": stream(bench, one),
                    "stream, next version": stream(bench, two),
                    "dump": dump(bench, two),
                    "tree, first": bench.run("tree", source=tree) + (bench.size(),),
                    "tree, again": bench.run("tree", source=tree) + (bench.size(),),
                    "tree, restore": bench.run("restore", source=tree, out=f"{base}/out") + (bench.size(),),
                }
                shutil.rmtree(f"{base}/out", ignore_errors=True)
                shutil.rmtree(bench.repo)
                for row, figures in rows.items():
                    results.setdefault(row, {}).setdefault(tool.name, []).append(figures)
                print(f"run {number + 1}: {tool.name} done, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        report(results, tools)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(base, ignore_errors=True)


def report(results, tools):
    medians = {row: {name: [statistics.median(values) for values in zip(*figures)] for name, figures in by_tool.items()} for row, by_tool in results.items()}
    lines = [f"{options.size} MB of text, 20,000 files, zstd 3, median of {options.runs} runs, {os.cpu_count()} cores.",
             "In brackets: times esker's.", "",
             "| case | tool | seconds | CPU seconds | peak MiB | repository MB |", "|---|---|---:|---:|---:|---:|"]
    for row, by_tool in medians.items():
        ours = by_tool["esker"]
        for tool in tools:
            cells = [f"{value:.2f} ({value / max(own, 0.01):.2f})" for value, own in zip(by_tool[tool.name], ours)]
            lines.append(f"| {row} | {tool.name} | " + " | ".join(cells) + " |")
    versions = [subprocess.run([tool.binary, "--version" if tool.name != "restic" else "version"], capture_output=True, text=True).stdout.split("\n")[0] for tool in tools]
    lines += ["", "Versions: " + "; ".join(versions), f"Peak memory of this script: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB", ""]
    text = "\n".join(lines)
    print(text)
    os.makedirs(options.out, exist_ok=True)
    with open(f"{options.out}/compare.md", "w") as file:
        file.write(text)
    with open(f"{options.out}/compare.svg", "w") as file:
        file.write(plot(medians, tools))
    print(f"written to {options.out}/compare.md and {options.out}/compare.svg", file=sys.stderr)


def plot(medians, tools):
    """Bars of seconds for each case, in colours that can be told apart on light and dark."""
    colours = dict(zip(("esker", "restic", "borg", "rustic", "bupstash"), ("#2a9d8f", "#e76f51", "#e9c46a", "#8d7fc7", "#6c9bd2")))
    bar, gap, left, width = 16, 26, 170, 760
    y, parts = 40, []
    longest = max(figures[0] for by_tool in medians.values() for figures in by_tool.values())
    for row, by_tool in medians.items():
        parts.append(f'<text x="{left - 10}" y="{y + bar * len(tools) / 2 + 4:.0f}" text-anchor="end">{row}</text>')
        for tool in tools:
            seconds = by_tool[tool.name][0]
            length = seconds / longest * (width - left - 130)
            parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 3}" fill="{colours[tool.name]}"/>')
            parts.append(f'<text x="{left + length + 5:.1f}" y="{y + bar - 5}">{tool.name} {seconds:.2f} s</text>')
            y += bar
        y += gap
    style = "text{font:12px sans-serif;fill:#333}@media(prefers-color-scheme:dark){text{fill:#ddd}}"
    title = f'<text x="{left}" y="22">seconds, lower is better ({options.size} MB stream, 20,000 files, zstd 3)</text>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}"><style>{style}</style>{title}{"".join(parts)}</svg>\n'


main()

#!/usr/bin/env python3
"""What a write-only host's second night costs beside a full client's, over the same input.

usage: hosts.py ESKER CORPORA [--runs N] [--only pg,redis]

CORPORA is a folder that corpora.py filled. Repositories lie on /dev/shm; everything is read once before. One repository is
backed up to by a full client. Into two others, a write-only host brings the same two nights, with block lists and without
(--no-delta), and each is admitted. Printed are medians: seconds, the megabytes that go to the store, those that the repository
grew by, and those of the block lists. A full client stores changed chunks as differences to last night's, which it reads; so its
megabytes are also what a host would upload that kept last night's content. What is dumped is compared byte for byte.
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("esker")
parser.add_argument("corpora")
parser.add_argument("--runs", type=int, default=3)
parser.add_argument("--only", default="pg,redis")
options = parser.parse_args()


class Place:
    """A repository, and whoever writes to it."""

    def __init__(self, base, label):
        self.repo, self.base, self.label = f"{base}/{label}", base, label
        self.esker("init", "-q", "--parity", "off")

    def esker(self, *args, stdin=subprocess.DEVNULL, who="full", stdout=subprocess.PIPE):
        env = dict(os.environ, ESKER_CACHE_DIR=f"{self.base}/cache-{self.label}-{who}")
        if who == "full":
            env["ESKER_PASSWORD"] = "x"
        start = time.monotonic()
        done = subprocess.run([options.esker, "-r", self.repo, *args], env=env, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE)
        if done.returncode:
            raise SystemExit(f"esker {' '.join(args)}: {done.stderr.decode(errors='replace')[-500:]}")
        return time.monotonic() - start

    def size(self, below=""):
        top = os.path.join(self.repo, below)
        return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(top) for name in names) / 1e6

    def lists(self):
        """Megabytes of a host's block lists."""
        walk = os.walk(f"{self.base}/cache-{self.label}-host")
        paths = (os.path.join(folder, name) for folder, _, names in walk if folder.endswith("/blocks") for name in names)
        return sum(map(os.path.getsize, paths)) / 1e6

    def backup(self, night, *how, who="full"):
        with open(night, "rb") as file:
            return self.esker("backup", "-q", *how, "--stdin", "--stdin-filename", "s", stdin=file, who=who)

    def is_sound(self, night):
        with tempfile.TemporaryFile(dir=self.base) as out:
            self.esker("dump", "latest", "s", stdout=out)
            out.seek(0)
            if subprocess.run(["cmp", "-", night], stdin=out).returncode:
                raise SystemExit(f"what was dumped is not {night}")


def nights(name):
    files = (file for file in os.listdir(options.corpora) if file.startswith(name + "-") and not file.endswith("version"))
    return sorted(f"{options.corpora}/{file}" for file in files)[:2]


def one_run(name):
    figures = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as base:
        full = Place(base, "full")
        hosts = {"host": (Place(base, "lists"), ()), "host --no-delta": (Place(base, "whole"), ("--no-delta",))}
        for brought, _ in hosts.values():
            brought.esker("host", "add", "h", "--write-only", "--to", f"{base}/bundle-{brought.label}")
        for number, night in enumerate(nights(name), 1):
            before = full.size()
            seconds = full.backup(night)
            added = full.size() - before
            figures[number, "full"] = (seconds, added, added, 0)
            for who, (brought, how) in hosts.items():
                before = brought.size()
                bundle = f"{base}/bundle-{brought.label}"
                seconds = brought.backup(night, "--bundle", bundle, *how, who="host")
                figures[number, who] = (seconds, brought.size("inbox"), 0, brought.lists())
                seconds = brought.esker("host", "admit")
                grown = brought.size() - before
                figures[number, f"admission of {who}"] = (seconds, grown, grown, 0)
        full.is_sound(night)
        for brought, _ in hosts.values():
            brought.is_sound(night)
    return figures


def main():
    print("| night | who | seconds | MB to the store | MB the repository grew by | MB of block lists |\n|---|---|---|---|---|---|")
    for name in options.only.split(","):
        for night in nights(name):
            with open(night, "rb") as file:
                while file.read(1 << 22):
                    pass
        runs = [one_run(name) for _ in range(options.runs)]
        for key in runs[0]:
            seconds, sent, grown, lists = (statistics.median(run[key][at] for run in runs) for at in range(4))
            print(f"| {name} {key[0]} | {key[1]} | {seconds:.2f} | {sent:.1f} | {grown:.1f} | {lists:.1f} |")
            sys.stdout.flush()


main()

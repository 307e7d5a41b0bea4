"""A backup of nothing new, and a listing, in a repository of few and of many snapshots and index segments.

heads.py ESKER MANY [--count 100000] [--runs 15]: MANY is the example `many` of benches. Prints medians, their ratio, the
size of HEAD, and how many requests a listing with an empty cache makes. Fails if one of these is beyond its bound.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time

# With many: times of a backup of nothing new with few, bytes of HEAD, seconds of a listing, requests of one without a cache.
RATIO, HEAD, SECONDS, REQUESTS = 1.5, 64 << 10, 1.0, 40


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("esker")
    parser.add_argument("many")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="esker-heads-")
    try:
        measure(options, folder)
    finally:
        shutil.rmtree(folder)


def measure(options, folder):
    source = os.path.join(folder, "source")
    os.mkdir(source)
    for number in range(50):
        with open(os.path.join(source, str(number)), "w", encoding="ascii") as file:
            file.write(str(number))
    environment = {**os.environ, "ESKER_PASSWORD": "x", "XDG_CACHE_HOME": os.path.join(folder, "cache")}

    def esker(repo, *args):
        began = time.monotonic()
        done = subprocess.run([options.esker, "--repo", repo, *args], env=environment, check=True, capture_output=True)
        return time.monotonic() - began, done

    repos = {name: os.path.join(folder, name) for name in ["few", "many"]}
    for repo in repos.values():
        esker(repo, "init")
        for _ in range(10):
            esker(repo, "backup", source)
    subprocess.run([options.many, repos["many"], str(options.count)], env=environment, check=True)
    times = {(name, what): [] for name in repos for what in ["backup", "snapshots"]}
    for name, repo in repos.items():
        esker(repo, "backup", source)
        esker(repo, "snapshots")
    # In turns, so that whatever else runs here slows down both.
    for _ in range(options.runs):
        for name, repo in repos.items():
            times[name, "backup"].append(esker(repo, "backup", source)[0])
            times[name, "snapshots"].append(esker(repo, "snapshots", "--json")[0])
    median = {key: statistics.median(values) for key, values in times.items()}
    for what in ["backup", "snapshots"]:
        few, many = median["few", what], median["many", what]
        print(f"{what}: {few:.3f} s with 10, {many:.3f} s with {options.count}, ratio {many / few:.2f}")
    beyond = []
    if median["many", "backup"] > RATIO * median["few", "backup"]:
        beyond.append(f"a backup takes more than {RATIO} times as long")
    if median["many", "snapshots"] >= SECONDS:
        beyond.append(f"a listing takes {SECONDS} s or longer")
    if os.path.getsize(os.path.join(repos["many"], "HEAD")) > HEAD:
        beyond.append(f"HEAD has more than {HEAD} bytes")
    for name, repo in repos.items():
        leaves = os.listdir(os.path.join(repo, "sets")) if os.path.isdir(os.path.join(repo, "sets")) else []
        print(f"{name}: HEAD has {os.path.getsize(os.path.join(repo, 'HEAD'))} bytes, {len(leaves)} objects in sets/")
    shutil.rmtree(os.path.join(folder, "cache"))
    _, done = esker(repos["many"], "--log", "store=debug", "snapshots", "--json")
    requests = len(re.findall(rb"^.*(?:DEBUG|debug).*$", done.stderr, re.MULTILINE))
    print(f"snapshots with an empty cache: {requests} requests")
    if not 0 < requests <= REQUESTS:
        beyond.append(f"a listing with an empty cache makes none or more than {REQUESTS} requests")
    if beyond:
        raise SystemExit("; ".join(beyond))


if __name__ == "__main__":
    main()

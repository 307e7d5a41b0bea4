"""What laying a Redis dump down in order costs, and what it is for: wall time against taking it as it comes, the second
night after a restart with 1 % of the keys changed, and single keys out of the snapshot.

Usage: redis.py ESKER [--keys 1400000] [--runs 5]

Starts redis-server (and another to restore into) on free ports in a temporary folder. Prints medians and ratios.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument("esker")
parser.add_argument("--keys", type=int, default=1_400_000)
parser.add_argument("--runs", type=int, default=5)
args = parser.parse_args()

FILL = """
local from, to, night = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
for i = from, to do
  if night == '1' or i % 100 == 0 then
    local sha = redis.sha1hex(i)
    local value = redis.sha1hex(sha..night)
    local kind = i % 4
    if night ~= '1' then kind = (i / 100) % 4 end
    if kind == 0 then redis.call('HSET', 'user:'..sha, 'name', 'user '..i, 'token', value, 'seen', i * 7, 'plan', 'basic')
    elseif kind == 1 then redis.call('SET', 'session:'..sha, value..redis.sha1hex(value)..string.rep('x', i % 90))
    elseif kind == 2 then redis.call('ZADD', 'scores:'..sha, i, sha, i * 2, 'b'..value)
    else redis.call('RPUSH', 'queue:'..sha, value, i) end
  end
end
return 1"""
scratch = pathlib.Path(tempfile.mkdtemp(prefix="esker-redis-"))
environment = {"PATH": os.environ["PATH"], "ESKER_PASSWORD": "bench", "ESKER_PROGRESS_FPS": "0"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def server(port, name):
    folder = scratch / name
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder),
         "--repl-diskless-sync-delay", "0"], stdout=subprocess.DEVNULL)
    while subprocess.run(["redis-cli", "-p", str(port), "ping"], capture_output=True, text=True).stdout != "PONG\n":
        time.sleep(0.05)
    return process


def cli(port, *words):
    return subprocess.run(["redis-cli", "-p", str(port), *map(str, words)], capture_output=True, text=True, check=True).stdout


def esker(repo, *words):
    command = [args.esker, "-r", str(repo), "--cache-dir", f"{repo}.cache", "--json", *map(str, words)]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    seconds = time.monotonic() - start
    if done.returncode:
        raise SystemExit(f"{command}: {done.stdout}{done.stderr}")
    return seconds, json.loads(done.stdout.splitlines()[-1])


def fill(port, night):
    for start in range(1, args.keys + 1, 100_000):
        cli(port, "eval", FILL, 0, start, min(start + 99_999, args.keys), night)


try:
    port = free_port()
    process = server(port, "source")
    fill(port, 1)
    url = f"redis://127.0.0.1:{port}"
    times = {"canonical": [], "raw": []}
    stored = {}
    for number in range(args.runs):
        for order in times:
            repo = scratch / f"{order}-{number}"
            esker(repo, "init")
            seconds, summary = esker(repo, "-o", f"redis.order={order}", "backup", url)
            times[order].append(seconds)
            stored[order] = summary["data_added_packed"]
            size = summary["total_bytes_processed"]
            if number:
                shutil.rmtree(repo)
    medians = {order: statistics.median(values) for order, values in times.items()}
    print(f"{args.keys} keys, {size / 1e6:.0f} MB, load {os.getloadavg()[0]:.1f}, medians of {args.runs}")
    print(f"first night: canonical {medians['canonical']:.2f} s, {stored['canonical'] / 1e6:.1f} MB; "
          f"raw {medians['raw']:.2f} s, {stored['raw'] / 1e6:.1f} MB: {medians['canonical'] / medians['raw']:.2f}x the time")
    cli(port, "config", "set", "dbfilename", "dump.rdb")
    cli(port, "save")
    process.kill()
    process.wait()
    process = server(port, "source")
    fill(port, 2)
    for order in times:
        seconds, summary = esker(scratch / f"{order}-0", "-o", f"redis.order={order}", "backup", url)
        added = summary["data_added_packed"]
        print(f"restarted, 1 % changed: {order} {added / 1e6:.2f} MB, {added * 100 / stored[order]:.2f} % of the first night, {seconds:.2f} s")
    names = scratch / "names"
    chosen = [cli(port, "randomkey").strip() for _ in range(50)]
    names.write_text("\n".join(chosen))
    target = free_port()
    other = server(target, "target")
    seconds, _ = esker(scratch / "canonical-0", "restore", "latest", "--to", f"redis://127.0.0.1:{target}", "--keys-from", names)
    print(f"50 random keys into a live server: {seconds:.2f} s")
    cli(target, "flushall")
    seconds, _ = esker(scratch / "canonical-0", "restore", "latest", "--to", f"redis://127.0.0.1:{target}", "--whole")
    print(f"all of it into an empty server, compared key by key: {seconds:.2f} s")
    other.kill()
finally:
    process.kill()
    shutil.rmtree(scratch, ignore_errors=True)

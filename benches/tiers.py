"""How near esker comes to what a store takes and gives: tier sync and restore against a plain parallel uploader and
downloader of the same bytes (benches/examples/plain.rs), in turns, without and with a latency on every request.

Usage: tiers.py ESKER PLAIN WEED [--runs 5] [--mib 768] [--latency 50] [--connections 10]

ESKER is the command, PLAIN the built example, WEED SeaweedFS (which the tests install). Prints medians, and the ratio of
each pair's.
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
import urllib.request

parser = argparse.ArgumentParser()
parser.add_argument("esker")
parser.add_argument("plain")
parser.add_argument("weed")
parser.add_argument("--runs", type=int, default=5)
parser.add_argument("--mib", type=int, default=768)
parser.add_argument("--latency", type=int, default=50)
parser.add_argument("--connections", type=int, default=10)
args = parser.parse_args()

IDENTITY = {"identities": [{"name": "bench", "credentials": [{"accessKey": "AK", "secretKey": "SK"}],
                            "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
environment = {"PATH": os.environ["PATH"], "AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK",
               "AWS_REGION": "us-east-1", "ESKER_PASSWORD": "bench", "ESKER_PROGRESS_FPS": "0"}


def free_port():
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port < 55000:
            return port


def start(*command, **options):
    return subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment, **options)
    if done.returncode:
        raise SystemExit(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


def plain(*command):
    size, seconds = run(args.plain, *command).split()
    return int(size) / float(seconds)


def timed(size, *command, **options):
    began = time.monotonic()
    run(*command, **options)
    return size / (time.monotonic() - began)


with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
    folder = pathlib.Path(name)
    (folder / "s3.json").write_text(json.dumps(IDENTITY))
    (folder / "weed").mkdir()
    port = free_port()
    parts = [f"-{part}.port={free_port()}" for part in ("master", "volume", "filer", "admin")]
    weed = start(args.weed, "mini", f"-dir={folder}/weed", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={port}",
                 f"-s3.config={folder}/s3.json", f"-s3.port.grpc={free_port()}", "-master.telemetry=false", "-webdav=false",
                 "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-bucket=bench", *parts, cwd=folder)
    slow = free_port()
    proxy = start(args.plain, "proxy", slow, port, args.latency)
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz")
                break
            except OSError:
                time.sleep(0.1)
        time.sleep(3)
        data = folder / "data"
        data.mkdir()
        random.seed(1)
        for number in range(4):
            (data / str(number)).write_bytes(random.randbytes(args.mib * (1 << 20) // 4))
        toml = folder / "esker.toml"

        def configure(port, prefix, select=""):
            toml.write_text(f'''cache_dir = "{folder}/cache-{prefix}"
[[tier]]
name = "local"
url = "file:{folder}/repo"
role = "primary"
[[tier]]
name = "s3"
url = "s3://bench/{prefix}"
endpoint = "http://127.0.0.1:{port}"
connections = {args.connections}
[[promise]]
{select}
keep = "7d"
tiers = ["local", "s3"]
''')

        configure(port, "first")
        esker = lambda *command: [args.esker, "-q", "-c", toml, *command]
        run(*esker("init", "--parity", "off"))
        run(*esker("backup", "--no-sync", "--tag", "small", toml))
        run(*esker("backup", "--no-sync", data))
        size = sum(path.stat().st_size for path in (folder / "repo/packs").rglob("*") if path.is_file())
        rates = {}

        def note(what, rate):
            rates.setdefault(what, []).append(rate)
            print(f"{what}: {rate / 1e6:.0f} MB/s", flush=True)

        for label, through in (("", port), (f" at {args.latency} ms", slow)):
            endpoint = f"http://127.0.0.1:{through}"
            for number in range(args.runs):
                prefix = f"{through}-{number}"
                note(f"upload{label}, plain", plain("upload", endpoint, "bench", f"plain-{prefix}", folder / "repo/packs",
                                                    args.connections))
                # The tier exists, as it does on every night but the first.
                configure(through, f"esker-{prefix}", 'select = {tag = "small"}')
                run(*esker("tier", "sync"))
                configure(through, f"esker-{prefix}")
                note(f"upload{label}, esker", timed(size, *esker("tier", "sync")))
            (folder / "repo").rename(folder / "away")
            for number in range(args.runs):
                note(f"download{label}, plain", plain("download", endpoint, "bench", f"plain-{prefix}", folder / "out",
                                                      args.connections))
                shutil.rmtree(folder / "out")
                note(f"download{label}, esker", timed(size, *esker("restore", "latest", "--target", folder / "out")))
                run("diff", "-r", data, f"{folder}/out{data}")
                shutil.rmtree(folder / "out")
            (folder / "away").rename(folder / "repo")
        print(f"load {os.getloadavg()[0]:.1f}; {size / 1e6:.0f} MB in packs; medians of {args.runs}:")
        for what in [what for what in rates if what.endswith("esker")]:
            ours, theirs = statistics.median(rates[what]), statistics.median(rates[what.replace("esker", "plain")])
            print(f"{what}: {ours / 1e6:.0f} MB/s, plain {theirs / 1e6:.0f}: {100 * ours / theirs:.0f} %")
    finally:
        proxy.kill()
        weed.kill()

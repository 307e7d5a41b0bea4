"""S3, STS and KMS of AWS over TLS by moto, and what moto leaves out: credentials are temporary, and they count.

As the documents of AWS have it ("Signature Version 4 signing process", "Error responses" of the S3 API, common errors of the KMS API):
every request but AssumeRoleWithWebIdentity must be signed with credentials that STS gave out, must carry their session token, and
comes too late when they have ended. AssumeRoleWithWebIdentity wants the token that the file WEB_TOKEN has now, else
InvalidIdentityToken. Credentials live LIFE seconds.

Beside it, over plain HTTP, the services that tell a machine who it is: IMDSv2 ("Use the Instance Metadata Service", Amazon EC2 user
guide), which gives the same credentials until half of their time is over; and a container's ("Container credential provider",
AWS SDKs and Tools reference guide): /v2/credentials/task without a proof, /pod with the token that the file POD_TOKEN has now. A redirect
is at /elsewhere.

Every request is logged to LOG: who was asked, and for what; of those that are signed the access key.

Usage: PORT=1 METADATA_PORT=2 CERT=server.pem KEY=server.key LOG=log LIFE=3600 WEB_TOKEN=web POD_TOKEN=pod python aws.py
"""

import datetime
import hashlib
import hmac
import http.server
import io
import json
import os
import threading
import time
import urllib.parse

from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.utils import utcnow
from moto.server import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from moto.sts import models as sts
from werkzeug.serving import run_simple

LIFE = float(os.environ["LIFE"])
ROLE = f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:role/backup"
LOCK = threading.Lock()


def log(*words):
    with LOCK, open(os.environ["LOG"], "a") as file:
        file.write(" ".join(words) + "\n")


def content(variable):
    with open(os.environ[variable]) as file:
        return file.read().strip()


plain_role = sts.AssumedRole.__init__


def role_for_a_while(self, *arguments, **named):
    plain_role(self, *arguments, **named)
    self.expiration = utcnow() + datetime.timedelta(seconds=LIFE)


sts.AssumedRole.__init__ = role_for_a_while


def backend():
    return sts.sts_backends[DEFAULT_ACCOUNT_ID]["aws"]


class Metadata(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    tokens = {}
    current = None

    def log_message(self, *arguments):
        pass

    def answer(self, status, body, kind="text/plain", **headers):
        data = body.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def credentials(self, service):
        with LOCK:
            now = utcnow()
            left = (Metadata.current.expiration - now).total_seconds() if Metadata.current else 0
            if left < LIFE / 2:
                Metadata.current = backend().assume_role("us-east-1", "i-0", ROLE, None, 3600, None)
            role = Metadata.current
        log("issued", service, role.access_key_id)
        end = role.expiration.strftime("%Y-%m-%dT%H:%M:%SZ")
        given = {
            "AccessKeyId": role.access_key_id,
            "SecretAccessKey": role.secret_access_key,
            "Token": role.session_token,
            "Expiration": end,
        }
        if service == "instance":
            given |= {"Code": "Success", "LastUpdated": "2026-11-26T08:00:00Z", "Type": "AWS-HMAC"}
        self.answer(200, json.dumps(given), "application/json")

    def do_PUT(self):
        log("metadata", "PUT", self.path)
        life = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.path != "/latest/api/token" or not life.isdigit() or not 1 <= int(life) <= 21600:
            return self.answer(400, "")
        if "X-Forwarded-For" in self.headers or "Via" in self.headers:
            return self.answer(403, "")
        token = os.urandom(16).hex()
        self.tokens[token] = time.time() + int(life)
        self.answer(200, token)

    def do_GET(self):
        log("metadata", "GET", self.path)
        if self.path == "/elsewhere":
            return self.answer(302, "", Location="/v2/credentials/task")
        if self.path == "/v2/credentials/task":
            return self.credentials("container")
        if self.path == "/pod":
            if self.headers.get("Authorization") != content("POD_TOKEN"):
                return self.answer(401, '{"code":"AccessDenied","message":"no such pod"}', "application/json")
            return self.credentials("container")
        if self.tokens.get(self.headers.get("X-aws-ec2-metadata-token"), 0) < time.time():
            return self.answer(401, "")
        roles = "/latest/meta-data/iam/security-credentials/"
        if self.path == roles:
            return self.answer(200, "backup")
        if self.path == roles + "backup":
            return self.credentials("instance")
        self.answer(404, "")


def signature(environ, secret, credential, names, digest):
    date, region, service, end = credential.split("/")[1:]
    header = {"host": environ["HTTP_HOST"], "content-type": environ.get("CONTENT_TYPE", "")}
    header |= {name[5:].lower().replace("_", "-"): value for name, value in environ.items() if name.startswith("HTTP_")}
    path, _, query = environ["REQUEST_URI"].partition("?")
    pairs = sorted(pair if "=" in pair else pair + "=" for pair in query.split("&") if pair)
    lines = [f"{name}:{' '.join(header.get(name, '').split())}" for name in names]
    canonical = "\n".join([environ["REQUEST_METHOD"], path, "&".join(pairs), *lines, "", ";".join(names), digest])
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", header["x-amz-date"], "/".join([date, region, service, end]), hashed])
    key = b"AWS4" + secret.encode()
    for part in (date, region, service, end):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def problem(environ, body):
    """Why a signed request is refused: status, code; nothing if it is not."""
    fields = environ.get("HTTP_AUTHORIZATION", "").removeprefix("AWS4-HMAC-SHA256 ").split(", ")
    given = dict(field.split("=", 1) for field in fields if "=" in field)
    if "Credential" not in given:
        return 403, "AccessDenied"
    key = given["Credential"].split("/")[0]
    log(given["Credential"].split("/")[3], key)
    role = backend().get_assumed_role_from_access_key(key)
    if role is None:
        return 403, "InvalidAccessKeyId"
    if environ.get("HTTP_X_AMZ_SECURITY_TOKEN") != role.session_token:
        return 400, "InvalidToken"
    if utcnow() >= role.expiration:
        return 400, "ExpiredToken"
    digest = hashlib.sha256(body).hexdigest()
    names = given["SignedHeaders"].split(";")
    is_whole = {"host", "x-amz-date", "x-amz-security-token"} <= set(names)
    said = environ.get("HTTP_X_AMZ_CONTENT_SHA256", digest)
    if said.startswith(("UNSIGNED-", "STREAMING-UNSIGNED-")):
        digest = said
    is_whole = is_whole and said == digest
    right = signature(environ, role.secret_access_key, given["Credential"], names, digest)
    if not is_whole or given["Signature"] != right:
        return 403, "SignatureDoesNotMatch"
    return None


def refuse(start, status, body, kind):
    start(f"{status} Refused", [("content-type", kind), ("content-length", str(len(body)))])
    return [body]


MOTO = DomainDispatcherApplication(create_backend_app)


def serve(environ, start):
    length = environ.get("CONTENT_LENGTH")
    is_whole = environ.get("wsgi.input_terminated") and not length
    body = environ["wsgi.input"].read() if is_whole else environ["wsgi.input"].read(int(length or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    form = urllib.parse.parse_qs(body.decode("latin-1")) if environ["REQUEST_METHOD"] == "POST" else {}
    if form.get("Action") == ["AssumeRoleWithWebIdentity"] and "HTTP_AUTHORIZATION" not in environ:
        log("sts", form["RoleArn"][0], form["RoleSessionName"][0], environ["REQUEST_URI"])
        if form["WebIdentityToken"][0].strip() != content("WEB_TOKEN") or form["RoleArn"] != [ROLE]:
            words = b"<ErrorResponse><Error><Type>Sender</Type><Code>InvalidIdentityToken</Code><Message>No OpenIDConnect \
provider found in your account</Message></Error></ErrorResponse>"
            return refuse(start, 400, words, "text/xml")
        return MOTO(environ, start)
    found = problem(environ, body)
    if found is None:
        return MOTO(environ, start)
    status, code = found
    if "HTTP_X_AMZ_TARGET" in environ:
        return refuse(start, 400, json.dumps({"__type": code + "Exception"}).encode(), "application/x-amz-json-1.1")
    return refuse(start, status, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode(), "application/xml")


s3_backends[DEFAULT_ACCOUNT_ID]["aws"].create_bucket("backup", "us-east-1")
metadata = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["METADATA_PORT"])), Metadata)
threading.Thread(target=metadata.serve_forever, daemon=True).start()
pair = (os.environ["CERT"], os.environ["KEY"])
run_simple("127.0.0.1", int(os.environ["PORT"]), serve, threaded=True, ssl_context=pair)

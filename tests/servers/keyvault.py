"""Azure Key Vault's keys, and the tokens that it wants: a double from the public REST reference ("Get Key", "Create Key", "Rotate Key",
"Update Key", "Delete Key", "wrapKey", "unwrapKey"; "OAuth 2.0 client credentials flow"; "managed identities, REST endpoint").

The official client azure-keyvault-keys is what judges it (keyvault_judge.py). It speaks TLS with CERT and KEY, and knows one
application (client id `app`, secret SECRET) of the tenant `tenant`, the federated token FEDERATED, and a machine with the header HEADER.
A token of rights `wrap` only wraps: the application `wrapper` gets such.

Usage: PORT=15002 CERT=server.pem KEY=server.key SECRET=x FEDERATED=y HEADER=z python keyvault.py
"""

import base64
import http.server
import json
import os
import ssl
import time
import urllib.parse

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

PORT = int(os.environ["PORT"])
HERE = f"https://127.0.0.1:{PORT}"
RESOURCE = "https://vault.azure.net"
TOKENS = {}
KEYS = {}
DELETED = {}
OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


def to_text(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_text(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def number(value):
    return to_text(value.to_bytes((value.bit_length() + 7) // 8, "big"))


class Problem(Exception):
    def __init__(self, status, code, message, inner=None):
        error = {"code": code, "message": message}
        if inner:
            error["innererror"] = {"code": inner}
        super().__init__(message)
        self.status, self.body = status, {"error": error}


class Version:
    def __init__(self):
        self.id, self.enabled = os.urandom(16).hex(), True
        self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def bundle(name, version):
    public = version.private.public_key().public_numbers()
    now = int(time.time())
    return {
        "key": {
            "kid": f"{HERE}/keys/{name}/{version.id}",
            "kty": "RSA",
            "key_ops": ["wrapKey", "unwrapKey"],
            "n": number(public.n),
            "e": number(public.e),
        },
        "attributes": {"enabled": version.enabled, "created": now, "updated": now, "recoveryLevel": "Recoverable"},
    }


def token_for(rights):
    token = to_text(os.urandom(24))
    TOKENS[token] = rights
    return {"token_type": "Bearer", "expires_in": 3599, "access_token": token}


def refused(message):
    return 401, {"error": "invalid_client", "error_description": message}


def of_tenant(form):
    one = {name: values[0] for name, values in form.items()}
    if one.get("scope") != RESOURCE + "/.default":
        return 400, {"error": "invalid_scope", "error_description": "AADSTS70011"}
    client = one.get("client_id")
    by_secret = one.get("client_secret") == os.environ["SECRET"]
    by_token = one.get("client_assertion") == os.environ["FEDERATED"]
    if client not in ("app", "wrapper") or not (by_secret or by_token):
        return refused("AADSTS7000215: Invalid client secret provided.")
    return 200, token_for("wrap" if client == "wrapper" else "all")


def of_machine(headers, query):
    if headers.get("x-identity-header") != os.environ["HEADER"]:
        return refused("no such machine")
    if query.get("resource") != [RESOURCE]:
        return 400, {"error": "invalid_resource"}
    return 200, dict(token_for("all"), expires_in="3599")


def key_of(parts):
    name = parts[1]
    if name in DELETED:
        raise Problem(404, "KeyNotFound", f"A key with (name/id) {name} was not found in this key vault.")
    if name not in KEYS:
        raise Problem(404, "KeyNotFound", f"A key with (name/id) {name} was not found in this key vault.")
    versions = KEYS[name]
    if len(parts) > 2 and parts[2] not in ("wrapkey", "unwrapkey", "create", "rotate", ""):
        found = [version for version in versions if version.id == parts[2]]
        if not found:
            raise Problem(404, "KeyNotFound", f"A key with (name/id) {name}/{parts[2]} was not found in this key vault.")
        return name, found[0]
    return name, versions[-1]


def on_keys(method, parts, body, rights):
    action = parts[-1]
    if method == "POST" and action == "create":
        KEYS.setdefault(parts[1], []).append(Version())
        return bundle(parts[1], KEYS[parts[1]][-1])
    name, version = key_of(parts)
    if method == "POST" and action == "rotate":
        KEYS[name].append(Version())
        return bundle(name, KEYS[name][-1])
    if method == "PATCH":
        version.enabled = body["attributes"]["enabled"]
        return bundle(name, version)
    if method == "DELETE":
        DELETED[name] = KEYS[name]
        return dict(bundle(name, version), recoveryId=f"{HERE}/deletedkeys/{name}", deletedDate=1, scheduledPurgeDate=2)
    if method == "GET":
        return bundle(name, version)
    if action not in ("wrapkey", "unwrapkey"):
        raise Problem(400, "BadParameter", f"no action {action}")
    if action == "unwrapkey" and rights == "wrap":
        raise Problem(403, "Forbidden", "Caller is not authorized to perform action on resource.", "ForbiddenByRbac")
    if not version.enabled:
        raise Problem(403, "Forbidden", f"Operation {action} is not allowed on a disabled key.", "KeyDisabled")
    if body.get("alg") != "RSA-OAEP-256":
        raise Problem(400, "BadParameter", "only RSA-OAEP-256 here")
    value = from_text(body["value"])
    try:
        if action == "wrapkey":
            made = version.private.public_key().encrypt(value, OAEP)
        else:
            made = version.private.decrypt(value, OAEP)
    except ValueError:
        raise Problem(400, "BadParameter", "The parameter is incorrect.")
    return {"kid": f"{HERE}/keys/{name}/{version.id}", "value": to_text(made)}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self, status, body, **headers):
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-type", "application/json; charset=utf-8")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def handle_any(self):
        data = self.rfile.read(int(self.headers.get("content-length") or 0))
        url = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(url.query)
        parts = url.path.strip("/").split("/")
        if parts[1:] == ["oauth2", "v2.0", "token"] and parts[0] == "tenant":
            return self.answer(*of_tenant(urllib.parse.parse_qs(data.decode())))
        if parts == ["msi", "token"]:
            return self.answer(*of_machine(self.headers, query))
        if parts == ["tokens"]:
            return self.answer(200, token_for("all"))
        token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        if token not in TOKENS:
            challenge = f'Bearer authorization="{HERE}/tenant", resource="{RESOURCE}"'
            error = {"error": {"code": "Unauthorized", "message": "AKV10000: Request is missing a Bearer or PoP token."}}
            return self.answer(401, error, WWW_Authenticate=challenge)
        if "api-version" not in query or parts[0] != "keys":
            return self.answer(400, {"error": {"code": "BadParameter", "message": "api-version must be specified"}})
        body = json.loads(data) if data else {}
        try:
            self.answer(200, on_keys(self.command, parts, body, TOKENS[token]))
        except Problem as problem:
            self.answer(problem.status, problem.body)

    do_GET = do_POST = do_PATCH = do_DELETE = handle_any


server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(os.environ["CERT"], os.environ["KEY"])
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()

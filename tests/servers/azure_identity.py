"""Who a machine or an application is for Azure: a double from the public documents.

Over plain HTTP at METADATA_PORT: the metadata service ("How to use managed identities for Azure resources on an Azure VM to acquire an
access token"), and at /msi/token that of App Service, with the header HEADER ("How to use managed identities for App Service", REST
endpoint). Over TLS at PORT: the tenant `tenant` ("OAuth 2.0 client credentials flow"), with the application `app`, its secret SECRET and the
token that the file FEDERATED has now. The machine has the identity `app`, too, which a request may name.

Tokens are for blobs and live LIFE seconds. They are not signed; Azurite reads of them issuer, audience and times. Every request is logged to LOG.

Usage: PORT=1 METADATA_PORT=2 CERT=server.pem KEY=server.key LOG=log LIFE=3600 SECRET=s HEADER=h FEDERATED=file python azure_identity.py
"""

import base64
import http.server
import json
import os
import ssl
import threading
import time
import urllib.parse

LIFE = int(os.environ["LIFE"])
RESOURCE = "https://storage.azure.com"
LOCK = threading.Lock()


def text(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def token(life):
    now = int(time.time())
    # To the second: the one that has begun does not shorten its life.
    claims = {"aud": RESOURCE, "iss": "https://sts.windows.net/tenant/", "iat": now, "nbf": now, "exp": now + life + 1}
    return f"{text({'alg': 'none', 'typ': 'JWT'})}.{text(claims)}.{base64.urlsafe_b64encode(os.urandom(9)).decode()}"


class Double(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json; charset=utf-8")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log(self, *words):
        with LOCK, open(os.environ["LOG"], "a") as file:
            file.write(" ".join(words) + "\n")

    def refuse(self, status, error, words):
        self.answer(status, {"error": error, "error_description": words})


class Machine(Double):
    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = {name: values[0] for name, values in urllib.parse.parse_qs(url.query).items()}
        self.log("machine", url.path, query.get("client_id", "-"))
        if query.get("resource") != RESOURCE:
            return self.refuse(400, "invalid_resource", "AADSTS500011")
        if query.get("client_id", "app") != "app":
            return self.refuse(400, "invalid_request", "Identity not found")
        given = {"access_token": token(LIFE), "resource": RESOURCE, "token_type": "Bearer"}
        expires_on = str(int(time.time()) + LIFE)
        if url.path == "/metadata/identity/oauth2/token":
            if self.headers.get("Metadata") != "true" or "X-Forwarded-For" in self.headers:
                return self.refuse(400, "bad_request_102", "Required metadata header not specified")
            if query.get("api-version") != "2018-02-01":
                return self.refuse(400, "bad_request", "api-version")
            return self.answer(200, given | {"expires_in": str(LIFE), "expires_on": expires_on})
        if url.path == "/msi/token" and query.get("api-version") == "2019-08-01":
            if self.headers.get("X-IDENTITY-HEADER") != os.environ["HEADER"]:
                return self.answer(401, {"error": "unauthorized"})
            return self.answer(200, given | {"expires_on": expires_on})
        self.answer(404, {})


class Tenant(Double):
    def do_POST(self):
        form = urllib.parse.parse_qs(self.rfile.read(int(self.headers.get("content-length") or 0)).decode())
        form = {name: values[0] for name, values in form.items()}
        self.log("tenant", self.path, form.get("client_id", "-"))
        if self.path != "/tenant/oauth2/v2.0/token" or form.get("grant_type") != "client_credentials":
            return self.refuse(400, "invalid_request", "AADSTS900023")
        if form.get("scope") != RESOURCE + "/.default":
            return self.refuse(400, "invalid_scope", "AADSTS70011")
        with open(os.environ["FEDERATED"]) as file:
            federated = file.read().strip()
        kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        by_token = form.get("client_assertion_type") == kind and form.get("client_assertion") == federated
        by_secret = form.get("client_secret") == os.environ["SECRET"]
        if form.get("client_id") != "app" or not (by_token or by_secret):
            return self.refuse(401, "invalid_client", "AADSTS7000215: Invalid client secret provided.")
        self.answer(200, {"token_type": "Bearer", "expires_in": LIFE, "access_token": token(LIFE)})


tenant = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Tenant)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(os.environ["CERT"], os.environ["KEY"])
tenant.socket = context.wrap_socket(tenant.socket, server_side=True)
threading.Thread(target=tenant.serve_forever, daemon=True).start()
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["METADATA_PORT"])), Machine).serve_forever()

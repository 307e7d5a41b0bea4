"""Judges keyvault.py by Azure's own client, azure-keyvault-keys, and does with it what the tests ask for.

Usage: REQUESTS_CA_BUNDLE=ca.pem python keyvault_judge.py PORT COMMAND
"""

import json
import sys
import time
import urllib.request
import ssl
import os

from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError
from azure.keyvault.keys import KeyClient
from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm

PORT, COMMAND = sys.argv[1:]
URL = f"https://127.0.0.1:{PORT}"
TRUSTED = ssl.create_default_context(cafile=os.environ["REQUESTS_CA_BUNDLE"])


class Credential:
    def get_token(self, *scopes, **options):
        with urllib.request.urlopen(urllib.request.Request(f"{URL}/tokens", method="POST"), context=TRUSTED) as answer:
            token = json.load(answer)["access_token"]
        return AccessToken(token, int(time.time()) + 3600)


keys = KeyClient(URL, Credential(), verify_challenge_resource=False)


def client(key):
    return CryptographyClient(key, Credential(), verify_challenge_resource=False)


def judge():
    first = keys.create_rsa_key("judged", size=2048)
    assert first.key_type == "RSA" and first.name == "judged" and first.properties.version
    wrapped = client(first.id).wrap_key(KeyWrapAlgorithm.rsa_oaep_256, b"secret")
    assert wrapped.key_id == first.id
    second = keys.rotate_key("judged")
    assert second.id != first.id and keys.get_key("judged").id == second.id
    # Only the id of the first version unwraps, and by the service: the private key is not here.
    assert client(first.id).unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, wrapped.encrypted_key).key == b"secret"
    for what in [second.id, first.id.replace("/keys/judged", "/keys/other")]:
        try:
            client(what).unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, wrapped.encrypted_key)
            raise SystemExit(f"{what} unwrapped")
        except HttpResponseError as error:
            assert error.status_code in (400, 404), error
    keys.update_key_properties("judged", version=first.properties.version, enabled=False)
    try:
        client(first.id).unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, wrapped.encrypted_key)
        raise SystemExit("a disabled key unwrapped")
    except HttpResponseError as error:
        assert error.status_code == 403, error
    except ValueError as error:
        # The client itself refuses a key that it read as disabled.
        assert "disabled" in str(error) or "not valid" in str(error), error


if COMMAND == "judge":
    judge()
elif COMMAND == "create":
    keys.create_rsa_key("k", size=2048)
elif COMMAND == "rotate":
    keys.rotate_key("k")
elif COMMAND in ("enable", "disable"):
    keys.update_key_properties("k", version=keys.get_key("k").properties.version, enabled=COMMAND == "enable")
elif COMMAND == "delete":
    keys.begin_delete_key("k")
else:
    raise SystemExit(f"no {COMMAND}")

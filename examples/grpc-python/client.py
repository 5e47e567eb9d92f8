"""Asks latchkey by gRPC about the keys on its input, one a line: `python client.py SCOPE < keys`."""

import json
import os
import sys

import grpc

from latchkey.v1.authorization_pb2 import AuthorizeRequest
from latchkey.v1.authorization_pb2_grpc import AuthorizationServiceStub

# Given with each call: a `timeout` in the service config can be off by seconds on a machine that has been up for hours.
DEADLINE_SECONDS = 1
# gRPC asks once more what was UNAVAILABLE, within the deadline.
SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "latchkey.v1.AuthorizationService"}],
            "retryPolicy": {
                "maxAttempts": 2,
                "initialBackoff": "0.05s",
                "maxBackoff": "0.1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
OPTIONS = {
    "grpc.service_config": json.dumps(SERVICE_CONFIG),
    "grpc.max_reconnect_backoff_ms": 1000,  # without it, up to two minutes after latchkey is back
}
OWN_KEY = os.environ.get("LATCHKEY_KEY")  # where latchkey has `grpc.callers = "key"`
METADATA = [("authorization", f"Bearer {OWN_KEY}")] if OWN_KEY else []

channel = grpc.insecure_channel(os.environ.get("LATCHKEY_TARGET", "127.0.0.1:50051"), list(OPTIONS.items()))
latchkey = AuthorizationServiceStub(channel)


def decide(token: str, scope: str) -> tuple[int, str]:
    """The HTTP status to answer with, and whose key it is, or why there is no telling."""
    try:
        question = AuthorizeRequest(token=token, required_scope=scope)
        decision = latchkey.Authorize(question, timeout=DEADLINE_SECONDS, metadata=METADATA)
    except grpc.RpcError as error:
        return 503, f"{error.code().name} {error.details()}"
    return decision.http_status if not decision.allowed else 200, f"{decision.account_id} {decision.key_id}"


for line in sys.stdin:
    print(*decide(line.strip(), sys.argv[1]), flush=True)

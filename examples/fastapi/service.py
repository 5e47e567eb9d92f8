"""A service that asks latchkey about each request. `needs` and what it calls are to be copied; the rest shows its use."""

import asyncio
import logging
import os
from contextlib import suppress

import httpx
from fastapi import Depends, FastAPI, HTTPException, Request

DEADLINE_SECONDS = 1
OWN_KEY = os.environ.get("LATCHKEY_KEY")  # where latchkey has `grpc.callers = "key"`

latchkey = httpx.AsyncClient(
    base_url=os.environ.get("LATCHKEY_URL", "http://127.0.0.1:8080"),
    headers={"authorization": f"Bearer {OWN_KEY}"} if OWN_KEY else {},
)


def needs(scope: str):
    """Lets a request through whose key holds the scope, and hands over whose key it is."""

    async def ask(request: Request) -> dict:
        client = request.client.host if request.client else ""
        decision = await decide({"token": key_of(request), "requiredScope": scope, "clientAddress": client})
        if not decision["allowed"]:
            challenge = decision["wwwAuthenticate"]
            headers = {"WWW-Authenticate": challenge} if challenge else None
            raise HTTPException(decision["httpStatus"], headers=headers)
        return decision

    return Depends(ask)


async def decide(question: dict) -> dict:
    """The decision, within the deadline. Only what UNAVAILABLE is, 503 or no answer, is asked once more."""
    why = "it is unavailable"
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            for _ in range(2):
                with suppress(httpx.TransportError):
                    answer = await latchkey.post("/v1/authorize", json=question)
                    if answer.status_code == 200 and "httpStatus" in answer.json():
                        return answer.json()
                    why = f"it says {answer.status_code}, {answer.text}"
                    if answer.status_code != 503:
                        break
    except (TimeoutError, ValueError, TypeError) as error:
        why = repr(error)
    logging.warning("latchkey does not decide: %s", why)
    raise HTTPException(503)


def key_of(request: Request) -> str:
    """The one key of a request. None is an empty one, and two are none that latchkey knows: it is left to say so."""
    bearers = [
        value[7:] if value[:7].lower() == "bearer " else "?" for value in request.headers.getlist("authorization")
    ]
    return " ".join(bearers + request.headers.getlist("x-api-key"))[:200]


app = FastAPI()


@app.get("/memories")
async def recall(key: dict = needs("memory:read")):
    return {"account": key["accountId"], "key": key["keyId"]}


@app.post("/memories")
async def store(key: dict = needs("memory:write")):
    return {"account": key["accountId"], "key": key["keyId"]}

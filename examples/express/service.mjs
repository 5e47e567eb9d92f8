// A service that asks latchkey about each request. `needs` and what it calls are to be copied; the rest shows its use.

import express from "express";

const DEADLINE_MS = 1000;
const AUTHORIZE = `${process.env.LATCHKEY_URL ?? "http://127.0.0.1:8080"}/v1/authorize`;
const OWN_KEY = process.env.LATCHKEY_KEY; // where latchkey has `grpc.callers = "key"`

// Lets a request through whose key holds the scope, and hands over whose key it is as `req.latchkey`.
const needs = (scope) => async (req, res, next) => {
  const decision = await decide({ token: keyOf(req), requiredScope: scope, clientAddress: req.socket.remoteAddress });
  if (!decision) return res.sendStatus(503);
  if (decision.wwwAuthenticate) res.set("WWW-Authenticate", decision.wwwAuthenticate);
  if (!decision.allowed) return res.sendStatus(decision.httpStatus);
  req.latchkey = decision;
  next();
};

// The decision, within the deadline. Only what UNAVAILABLE is, 503 or no answer, is asked once more.
async function decide(question) {
  const headers = OWN_KEY ? { authorization: `Bearer ${OWN_KEY}` } : {};
  const signal = AbortSignal.timeout(DEADLINE_MS);
  const ask = { method: "POST", headers, body: JSON.stringify(question), signal };
  let why;
  for (let tries = 0; tries < 2; tries++) {
    try {
      const answer = await fetch(AUTHORIZE, ask);
      const text = await answer.text();
      const decision = answer.status === 200 && JSON.parse(text);
      if (decision?.httpStatus) return decision;
      why = `it says ${answer.status}, ${text}`;
      if (answer.status !== 503) break;
    } catch (error) {
      why = error;
      if (error instanceof SyntaxError) break; // an answer, though not one of latchkey's
    }
  }
  console.warn("latchkey does not decide:", why);
}

// The one key of a request. None is an empty one, and two are none that latchkey knows: it is left to say so.
// Not `req.headers`, which shows the first of several.
function keyOf(req) {
  const { authorization = [], "x-api-key": bare = [] } = req.headersDistinct;
  const bearers = authorization.map((value) => (/^bearer /i.test(value) ? value.slice(7) : "?"));
  return [...bearers, ...bare].join(" ").slice(0, 200);
}

const app = express();
const whose = (req, res) => res.json({ account: req.latchkey.accountId, key: req.latchkey.keyId });
app.get("/memories", needs("memory:read"), whose);
app.post("/memories", needs("memory:write"), whose);
app.listen(process.env.PORT ?? 8000, "127.0.0.1");

// The stand-in for a stock app, on Node: `node app.mjs`. Knows nothing of the server but protocol v1.
//
// Its log, one JSON object a line, is what the tests read: each delivery as it came, each step that ran, each call to
// the server, each function's result. Tests tell it what to do through /control.

import { createHmac } from 'node:crypto';
import { appendFileSync } from 'node:fs';
import { createServer } from 'node:http';

import { Client } from './client.mjs';
import { PostgresDriver, RpcDriver } from './drivers.mjs';
import { crontabs, functions } from './functions.mjs';

const KEYS = ['job_key', 'retry', 'time', 'event', 'data', 'cache'];
const OLDEST = 15_000;

const env = process.env;
const secret = env.SLAY_Q_WORKER_SECRET;
const driver =
  env.STANDIN_DRIVER === 'rpc' ? new RpcDriver(secret, Number(env.STANDIN_PATIENCE), JSON.parse(env.STANDIN_BASES)) : new PostgresDriver();
const client = new Client(driver, functions, crontabs, log);

function log(kind, facts) {
  appendFileSync(env.STANDIN_LOG, `${JSON.stringify({ kind, at: Date.now(), ...facts })}\n`);
}

async function textOf(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts).toString('utf8');
}

// Why a callback is not to be trusted: signed over what it says, in the order of KEYS, and not long ago.
function refusal(body, signature) {
  const signed = JSON.stringify(Object.fromEntries(KEYS.filter((key) => key in body).map((key) => [key, body[key]])));
  if (createHmac('sha512', secret).update(signed).digest('hex') !== signature) return 'the signature is wrong';
  if (Date.now() - body.time > OLDEST) return 'the body is too old';
  return null;
}

async function callback(request, response) {
  const text = await textOf(request);
  const body = JSON.parse(text);
  const reason = refusal(body, request.headers['x-slayq-signature']);
  if (reason !== null) {
    log('refused', { reason, body: text });
    response.writeHead(401).end(reason);
    return;
  }
  const { job_key: key, event, retry, time, data = null, cache = null } = body;
  log('delivery', { key, members: Object.keys(body), event, retry, time, data, cache });
  let answer;
  try {
    answer = await client.deliver(body);
  } catch (error) {
    log('error', { key, error: String(error) });
    answer = { status: 500 };
  }
  log('answer', { key, status: answer.status });
  if (answer.status === 'die') response.destroy();
  else if (answer.status !== 'hang') response.writeHead(answer.status, answer.headers).end();
}

// What a test asks for.
async function control(request, response) {
  const asked = JSON.parse(await textOf(request));
  let given = null;
  switch (asked.do) {
    case 'send':
      given = await client.send(asked.event, asked.data, { key: asked.key });
      break;
    case 'send_all':
      given = await client.sendAll(asked.events);
      break;
    case 'call': {
      const { payload, ...values } = asked.values;
      await client.call(asked.name, payload ? { ...values, payload: { url: client.url, ...payload } } : values);
      break;
    }
    case 'set':
      client.flags.add(asked.flag);
      break;
    case 'connect':
      driver.bases = asked.bases;
  }
  response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(given));
}

const server = createServer((request, response) => {
  const handle = request.url === '/control' ? control : callback;
  handle(request, response).catch((error) => {
    log('error', { error: String(error) });
    if (!response.headersSent) response.writeHead(500).end(String(error));
  });
});

await driver.start();
server.listen(Number(env.STANDIN_PORT), '127.0.0.1', () => {
  const { port } = server.address();
  client.url = `http://127.0.0.1:${port}/slayq`;
  log('listening', { port });
});

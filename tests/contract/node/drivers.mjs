// How the stand-in speaks to its server: the SQL functions (protocol v1, section 3) or RPC over HTTP (section 4).

import { createHmac } from 'node:crypto';
import { request } from 'node:http';
import { createRequire } from 'node:module';
import { setTimeout as pause } from 'node:timers/promises';

const TIME_LIMIT = 20_000;
const GONE = ['ECONNREFUSED', 'ECONNRESET', 'EPIPE'];

// Of each call its arguments in order: the name here, the name in RPC.
const CALLS = {
  add_worker_job: [
    ['identifier', 'identifier'],
    ['payload', 'payload'],
    ['queue_name', 'queue_name'],
    ['run_at', 'run_at'],
    ['max_attempts', 'max_attempts'],
    ['job_key', 'job_key'],
    ['priority', 'priority'],
    ['flags', 'flags'],
    ['job_key_mode', 'job_key_mode'],
  ],
  wait_for_worker_event: [
    ['job_key', 'jobKey'],
    ['event', 'event'],
    ['match_key', 'matchKey'],
    ['match_value', 'matchValue'],
    ['step_name', 'stepName'],
    ['expires_at', 'expiresAt'],
  ],
  wait_for_invocation: [
    ['invoker_job_key', 'invokerJobKey'],
    ['target_job_key', 'targetJobKey'],
    ['step_name', 'stepName'],
  ],
  trigger_waiting_workers: [
    ['event', 'event'],
    ['match_key', 'match'],
    ['match_value', 'matchVal'],
  ],
  trigger_waiting_invoker: [
    ['job_key', 'jobKey'],
    ['result', 'result'],
  ],
  cancel_pending_tasks: [
    ['event', 'event'],
    ['match_key', 'matchKey'],
    ['match_value', 'matchVal'],
  ],
};

// Calls the functions, each argument in its place: an explicit null for all that is not set.
export class PostgresDriver {
  async start() {
    const load = createRequire(`${process.env.STANDIN_PACKAGES}/package.json`);
    this.pool = new (load('pg').Pool)({
      connectionString: process.env.SLAY_Q_DATABASE_URL,
      max: 4,
      query_timeout: TIME_LIMIT,
    });
  }

  async call(name, values) {
    const given = CALLS[name].map(([argument]) => {
      const value = values[argument];
      if (value === undefined) return null;
      return ['payload', 'result'].includes(argument) ? JSON.stringify(value) : value;
    });
    const places = given.map((_, index) => `$${index + 1}`);
    await this.pool.query(`select ${name}(${places.join(', ')})`, given);
  }
}

// Posts signed calls to the daemons at `bases`, in turn; for `patience` seconds again while one is gone.
export class RpcDriver {
  constructor(secret, patience, bases) {
    this.bases = bases;
    this.secret = secret;
    this.patience = patience;
    this.calls = 0;
  }

  async start() {}

  async call(name, values) {
    // What is undefined is left out by JSON.stringify: the result of a callee that returns nothing, too.
    const body = JSON.stringify(Object.fromEntries(CALLS[name].map(([argument, member]) => [member, values[argument]])));
    const deadline = performance.now() + this.patience * 1000;
    for (;;) {
      try {
        return await this.post(name.replaceAll('_', '-'), body);
      } catch (error) {
        if (!GONE.includes(error.code) || performance.now() > deadline) throw error;
        await pause(100);
      }
    }
  }

  async post(task, body) {
    const base = this.bases[this.calls++ % this.bases.length];
    const signature = createHmac('sha512', this.secret).update(body).digest('hex');
    const { status, said } = await new Promise((resolve, reject) => {
      const sent = request(
        `${base}/${task}`,
        {
          method: 'POST',
          agent: false,
          timeout: TIME_LIMIT,
          headers: { 'Content-Type': 'application/json', 'X-SlayQ-Signature': signature },
        },
        async (answer) => {
          try {
            answer.setEncoding('utf8');
            let said = '';
            for await (const part of answer) said += part;
            resolve({ status: answer.statusCode, said });
          } catch (error) {
            reject(error);
          }
        },
      );
      sent.on('timeout', () => sent.destroy(new Error(`${task} was not answered in time`)));
      sent.on('error', reject);
      sent.end(body);
    });
    if (status !== 200 || JSON.parse(said).status !== 'ok') {
      throw new Error(`${task} was answered with ${status}: ${said}`);
    }
  }
}

// The stand-in for the stock client, written from protocol v1 alone: it runs durable functions, one event each.
//
// A function does its work in steps. What steps have given stands in the job's `cache`, which travels with the job; to
// pause, the client adds the job again under its own key and answers 200.

import { randomInt } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';

const ALPHABET = 'useandom-26T198340PX75pxJACKVERYMINDBUSHWOLF_GQZbfghjklqvwyzrict';
const FLAG_LIMIT = 60_000;

class Suspended extends Error {}
class StepFailed extends Error {}
export class NoRetry extends Error {}

export class Answer extends Error {
  constructor(status, headers = {}) {
    super(`answer ${status}`);
    this.status = status;
    this.headers = headers;
  }
}

export const newKey = () => Array.from({ length: 21 }, () => ALPHABET[randomInt(64)]).join('');

// Sends events, and answers deliveries with the functions that it knows.
export class Client {
  constructor(driver, functions, crontabs, log) {
    this.driver = driver;
    this.url = '';
    this.functions = functions;
    this.crontabs = crontabs;
    this.log = log;
    this.flags = new Set();
    this.thrown = new Map(); // how often the runs of each key have failed on purpose
  }

  // One call to the server; `during` is the key of the job that is being delivered.
  async call(name, values, during) {
    this.log('calling', { key: during, name, values });
    await this.driver.call(name, values);
    this.log('called', { key: during, name, values });
  }

  // Sends an event: cancels what it cancels, starts its function, and wakes who waits for it.
  async send(event, data, { key = newKey(), during } = {}) {
    for (const target of Object.values(this.functions)) {
      for (const { event: cancelling, match } of target.cancelOn ?? []) {
        if (cancelling === event && match in data) {
          const values = { event: target.event, match_key: match, match_value: String(data[match]) };
          await this.call('cancel_pending_tasks', values, during);
        }
      }
    }
    if (event in this.functions) await this.add(this.functions[event], key, data, { during });
    for (const [name, value] of Object.entries(data)) {
      if (['string', 'number', 'boolean'].includes(typeof value)) {
        await this.call('trigger_waiting_workers', { event, match_key: name, match_value: String(value) }, during);
      }
    }
    return key;
  }

  // Sends many events at once.
  async sendAll(events, during) {
    return Promise.all(events.map(([event, data]) => this.send(event, data, { during })));
  }

  // Adds a job; `cache` and `run_at` are those of a continuation.
  async add(target, key, data, { during, cache, run_at } = {}) {
    const payload = { url: this.url, retry: 0, event: target.event, data, cache };
    const max_attempts = target.retries === undefined ? undefined : target.retries + 1;
    await this.call(
      'add_worker_job',
      { identifier: target.queue ?? 'general', payload, job_key: key, max_attempts, run_at },
      during,
    );
  }

  // Runs what a delivery asks for. The answer's status may be `hang` or `die`.
  async deliver(body) {
    if (body.event === 'cron') {
      for (const [event, crontab] of Object.entries(this.crontabs)) {
        if (isDue(crontab, new Date())) await this.send(event, {}, { during: 'cron' });
      }
      return { status: 200 };
    }
    if (!Object.hasOwn(this.functions, body.event)) return { status: 404 };
    const target = this.functions[body.event];
    const run = new Run(this, target, body);
    let result;
    try {
      result = await target.run(run);
    } catch (error) {
      if (error instanceof Suspended) return { status: run.then(200) };
      if (error instanceof NoRetry) return { status: 666 };
      if (error instanceof Answer) return error;
      if (!(error instanceof StepFailed)) throw error;
      await this.add(target, run.key, run.data, { during: run.key, cache: run.cache });
      return { status: run.then(200) };
    }
    this.log('finished', { key: run.key, result: result ?? null });
    await this.call('trigger_waiting_invoker', { job_key: run.key, result }, run.key);
    return { status: 200 };
  }
}

// One delivery of a function: what it is given, and its steps.
class Run {
  constructor(client, target, { job_key, retry, data, cache }) {
    this.client = client;
    this.target = target;
    this.key = job_key;
    this.retry = retry;
    this.data = data;
    this.cache = { ...cache };
  }

  get thrown() {
    return this.client.thrown.get(this.key) ?? 0;
  }

  has(name) {
    return Object.hasOwn(this.cache, name);
  }

  // What `work` gave when it first succeeded.
  async step(name, work) {
    if (!this.has(name)) {
      this.client.log('step', { key: this.key, name });
      try {
        this.cache[name] = (await work()) ?? null;
      } catch (error) {
        if (error instanceof NoRetry) throw error;
        throw new StepFailed(name, { cause: error });
      }
    }
    return this.cache[name];
  }

  async sleep(name, milliseconds) {
    await this.sleepUntil(name, new Date(Date.now() + milliseconds));
  }

  async sleepUntil(name, time) {
    if (this.has(name)) return;
    this.cache[name] = true;
    await this.again(time);
    throw new Suspended();
  }

  // Whether the event came, with the same value under `match` as in this run's data, within `timeout` ms. `between` is
  // what the test wants to happen between the two calls.
  async waitForEvent(name, { event, match, timeout, between = async () => {} }) {
    if (!this.has(name)) {
      this.cache[name] = false;
      const expires_at = new Date(Date.now() + timeout);
      await this.again(expires_at);
      await between();
      await this.client.call(
        'wait_for_worker_event',
        {
          job_key: this.key,
          event,
          match_key: match,
          match_value: String(this.data[match]),
          step_name: name,
          expires_at: expires_at.toISOString(),
        },
        this.key,
      );
      throw new Suspended();
    }
    return this.cache[name] === true;
  }

  // What another function gave; false if it did not within `timeout` ms.
  async invoke(name, event, data, timeout) {
    if (!this.has(name)) {
      const callee = newKey();
      this.cache[name] = false;
      await this.again(new Date(Date.now() + timeout));
      await this.client.call(
        'wait_for_invocation',
        { invoker_job_key: this.key, target_job_key: callee, step_name: name },
        this.key,
      );
      await this.client.add(this.client.functions[event], callee, data, { during: this.key });
      throw new Suspended();
    }
    return this.cache[name];
  }

  async sendEvents(name, events) {
    return this.step(name, () => this.client.sendAll(events, this.key));
  }

  // Waits until the test sets a flag.
  async until(flag) {
    const deadline = performance.now() + FLAG_LIMIT;
    while (!this.client.flags.has(flag)) {
      if (performance.now() > deadline) throw new Error(`nobody has set the flag ${flag}`);
      await pause(10);
    }
  }

  // Throws, but no more than `times` times in all runs of this key.
  fail(times) {
    if (this.thrown < times) {
      this.client.thrown.set(this.key, this.thrown + 1);
      throw new Error(`failure ${this.thrown} of ${times}, as told`);
    }
  }

  // What to answer after the job was added again: the data may ask for worse than `status`, the first time.
  then(status) {
    return (this.retry === 1 && this.data.then) || status;
  }

  async again(time) {
    await this.client.add(this.target, this.key, this.data, {
      during: this.key,
      cache: this.cache,
      run_at: time.toISOString(),
    });
  }
}

// Whether a crontab of numbers and asterisks names this minute.
function isDue(crontab, time) {
  const now = [time.getUTCMinutes(), time.getUTCHours(), time.getUTCDate(), time.getUTCMonth() + 1, time.getUTCDay()];
  return crontab.split(' ').every((part, index) => part === '*' || Number(part) === now[index]);
}

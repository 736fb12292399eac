// The stand-in's functions. What each is told to do stands in the event's data; functions.py has the same.

import { Answer, NoRetry } from './client.mjs';

export const functions = {};
export const crontabs = { 'cron/minute': '* * * * *', 'cron/never': '0 0 30 2 *' };

function define(event, run, options = {}) {
  functions[event] = { event, run, ...options };
}

define('data/echo', async (run) => run.data);

define('cron/minute', async () => 'a minute has passed');

define('cron/never', async () => 'it is the 30th of February');

define('steps/plain', async (run) => ({
  a: await run.step('a', () => 1),
  b: await run.step('b', () => run.data.word),
}));

define('steps/retried', async (run) => {
  const first = await run.step('first', () => 'kept');
  await run.step('shaky', () => run.fail(2));
  return { first, thrown: run.thrown };
});

define(
  'steps/hopeless',
  async (run) => {
    const kept = await run.step('kept', () => 'kept');
    const mended = run.client.flags.has(`mended ${run.data.tag}`);
    await run.step('broken', () => run.fail(mended ? 0 : Infinity));
    return kept;
  },
  { retries: 3 },
);

define('steps/uncaught', async (run) => {
  run.fail(2);
  return run.thrown;
});

define('steps/held', async (run) => {
  await run.step('hold', () => run.until(`go ${run.data.tag} ${run.data.n}`));
  return run.data.n;
});

define('sleep/short', async (run) => {
  const before = await run.step('before', () => 'before');
  await run.sleep('nap', run.data.ms);
  return [before, await run.step('after', () => 'after')];
});

define('sleep/until', async (run) => {
  await run.sleepUntil('until', new Date(run.data.at));
  return 'awake';
});

define('wait/event', async (run) => {
  const before = await run.step('before', () => 'before');
  const approved = await run.waitForEvent(run.data.step ?? 'approved', {
    event: 'wait/approved',
    match: 'order',
    timeout: run.data.ms,
    between: async () => {
      if (run.data.between) await run.client.send('wait/approved', { order: run.data.order }, { during: run.key });
    },
  });
  return [before, approved];
});

define('invoke/caller', async (run) => ({
  answer: await run.invoke('call', run.data.callee, run.data.given, run.data.ms),
}));

define('invoke/callee', async (run) => {
  if ('ms' in run.data) await run.sleep('nap', run.data.ms);
  return run.data.answer;
});

define('send/fan', async (run) => {
  const numbers = Array.from({ length: run.data.count }, (_, n) => n);
  return run.sendEvents(
    'fan',
    numbers.map((n) => ['send/received', { tag: run.data.tag, n }]),
  );
});

define('send/received', async (run) => run.data.n);

define(
  'cancel/pending',
  async (run) => {
    switch (run.data.does) {
      case 'sleep':
        await run.sleep('nap', 60_000);
        break;
      case 'wait':
        await run.waitForEvent('approved', { event: 'wait/approved', match: 'user', timeout: 60_000 });
        break;
      case 'invoke':
        await run.invoke('call', 'steps/held', { tag: run.data.user, n: 0 }, 60_000);
        break;
      case 'fail':
        throw new Answer(503, { 'Retry-After': '60' });
    }
    return 'was not cancelled';
  },
  { cancelOn: [{ event: 'cancel/stop', match: 'user' }] },
);

define(
  'cancel/held',
  async (run) => {
    await run.step('hold', () => run.until(`go ${run.data.tag}`));
    switch (run.data.does) {
      case 'sleep':
        await run.sleep('nap', 100);
        break;
      case 'throw':
        await run.step('shaky', () => run.fail(1));
        break;
      case 'fail':
        run.fail(1);
    }
    return 'finished';
  },
  { cancelOn: [{ event: 'cancel/stop', match: 'user' }] },
);

define(
  'cancel/self',
  async (run) => {
    await run.sleep('settle', run.data.ms);
    return run.data.n;
  },
  { cancelOn: [{ event: 'cancel/self', match: 'user' }] },
);

define('answer/no-retry', async (run) => {
  await run.step('hopeless', () => {
    throw new NoRetry();
  });
});

define('answer/status', async (run) => {
  const { statuses, headers } = run.data;
  const count = run.thrown;
  run.client.thrown.set(run.key, count + 1);
  throw new Answer(statuses[Math.min(count, statuses.length - 1)], headers);
});

define(
  'after/sleep',
  async (run) => {
    await run.sleep('nap', run.data.ms);
    return 'finished';
  },
  { queue: 'impatient' },
);

define(
  'after/failure',
  async (run) => {
    const kept = await run.step('kept', () => 'kept');
    await run.step('shaky', () => run.fail(1));
    return kept;
  },
  { queue: 'impatient' },
);

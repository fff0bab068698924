/** `coordinator.sharding: examples`: a real coordinator, and sites that are sockets and tell how many examples they have. */
import test from 'ava';
import { CLOSE_CODES } from '../../src/protocol/close-codes.ts';
import { finish, joinRun, next, startRun } from '../support/raw-run.ts';

const SETTINGS = ['data={local: true}', 'local_steps.count=2', 'evaluation.every=0'];
const BY_EXAMPLES = [...SETTINGS, 'coordinator={port: 0, start_trainers: 2, sharding: examples}'];

test('a site takes as much of a step as it has of the examples, and may have so many targets', async (t) => {
  const { url, metrics } = await startRun(t, BY_EXAMPLES);
  const [a, b] = [await joinRun(t, url, 'a', 300), await joinRun(t, url, 'b', 100)];
  const sizes = [6, 2];
  for (const step of [1, 2]) {
    for (const [i, { trainer, contribution }] of [a, b].entries()) {
      const assignment = await next(trainer, 'stepAssignment');
      t.deepEqual([assignment.step, assignment.sequences, assignment.localExamples], [step, null, sizes[i]!]);
      const parts = contribution(step);
      for (const part of parts) trainer.send(part);
      finish(trainer, step, parts, 2 * 8 * sizes[i]!, [300, 100][i]);
    }
    for (const { trainer } of [a, b]) t.is((await next(trainer, 'commit')).step, step);
  }
  const { members } = (await metrics())[0] as { readonly members: { readonly weights: number[] } };
  t.deepEqual(members.weights, [300, 100]);
});

test('more targets than its share has are refused', async (t) => {
  const { url } = await startRun(t, BY_EXAMPLES);
  const [, b] = [await joinRun(t, url, 'a', 300), await joinRun(t, url, 'b', 100)];
  await next(b.trainer, 'stepAssignment');
  const parts = b.contribution(1);
  for (const part of parts) b.trainer.send(part);
  finish(b.trainer, 1, parts, 2 * 8 * 2 + 1, 100);
  const { code, reason } = await b.trainer.closed;
  t.is(code, CLOSE_CODES.INVALID_CONTRIBUTION.code, reason);
});

test('a size that is none, or not told, ends the connection that it came by and nothing else', async (t) => {
  const { url } = await startRun(t, BY_EXAMPLES);
  for (const examples of [undefined, 0, 1.5, 2e12]) {
    const { trainer } = await joinRun(t, url, 'c', examples);
    const { code, reason } = await trainer.closed;
    t.is(code, CLOSE_CODES.MALFORMED_MESSAGE.code, reason);
    t.regex(reason, /shared out by the examples of sites: 1 to 1000000000000/);
  }
  const [a, b] = [await joinRun(t, url, 'a', 10), await joinRun(t, url, 'b', 10)];
  for (const { trainer } of [a, b]) t.is((await next(trainer, 'stepAssignment')).localExamples, 4);
});

test('otherwise all sites take the same, whatever they tell', async (t) => {
  const { url } = await startRun(t, SETTINGS);
  const [a, b] = [await joinRun(t, url, 'a', 300), await joinRun(t, url, 'b')];
  for (const { trainer } of [a, b]) t.is((await next(trainer, 'stepAssignment')).localExamples, 4);
});

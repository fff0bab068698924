import test from 'ava';
import { FeedGate, MAX_BURST_MS } from '../../src/coordinator/feed-gate.ts';

/** A gate in virtual time: a pause of no time is a turn of the event loop, and counts. */
function gateWith(isBusyAt: (nowMs: number) => boolean) {
  const time = { nowMs: 0, turns: 0 };
  const gate = new FeedGate({
    isBusy: () => isBusyAt(time.nowMs),
    nowMs: () => time.nowMs,
    pause: (durationMs) => {
      time.nowMs += durationMs;
      if (durationMs === 0) time.turns++;
      return Promise.resolve();
    },
  });
  return { gate, time };
}

async function* framesOf(count: number): AsyncGenerator<Uint8Array> {
  for (let i = 0; i < count; i++) yield await Promise.resolve(new Uint8Array([i]));
}

test('with nothing live to send a feed takes no time, but lets every socket have its turn between two frames', async (t) => {
  const { gate, time } = gateWith(() => false);
  const passed: number[] = [];
  for await (const [number] of gate.pace(framesOf(3))) passed.push(number!);
  t.deepEqual({ passed, ...time }, { passed: [0, 1, 2], nowMs: 0, turns: 3 });
});

test('bulk waits until what is live has gone, and then goes on at once', async (t) => {
  // Updates wait from 0 to 300 ms, and from 500 to 620.
  const { gate, time } = gateWith((nowMs) => nowMs < 300 || (nowMs >= 500 && nowMs < 620));
  const passedMs: number[] = [];
  for await (const _ of gate.pace(framesOf(4))) {
    passedMs.push(time.nowMs);
    time.nowMs += 100; // the line takes it
  }
  t.deepEqual(passedMs, [300, 400, 620, 720]);
});

test('a trainer with so slow a link that something always waits for it does not hold up a feed', async (t) => {
  const { gate, time } = gateWith(() => true);
  const passedMs: number[] = [];
  for await (const _ of gate.pace(framesOf(3))) passedMs.push(time.nowMs);
  t.deepEqual(passedMs, [MAX_BURST_MS, MAX_BURST_MS, MAX_BURST_MS]);
});

test('a feed that is given up closes what it reads from', async (t) => {
  const { gate } = gateWith(() => false);
  let isClosed = false;
  async function* file(): AsyncGenerator<Uint8Array> {
    try {
      yield* framesOf(9);
    } finally {
      isClosed = true;
    }
  }
  for await (const _ of gate.pace(file())) break;
  t.true(isClosed);
});

/** What goes live to trainers that are fed. */
import test from 'ava';
import { sendAhead, sendNotice, sendRecord, withdrawAhead } from '../../src/coordinator/live-feed.ts';
import { HeardSession } from '../support/heard-session.ts';

const frame = (byte: number): Uint8Array => Uint8Array.of(byte);

test('a record goes to each trainer once, with what of it was sent ahead', async (t) => {
  const early = new HeardSession('early', 4);
  const late = new HeardSession('late', null); // still being fed
  const ahead = new HeardSession('ahead', 5); // the feed had record 5 already
  const sessions = [early, late, ahead];
  sendAhead([early, late], 0, [frame(1), frame(2)]);
  late.liveSequence = 4; // it has missed the first Parts
  sendAhead(sessions.slice(0, 2), 2, [frame(3)]);
  sendRecord(sessions, 5, [frame(1), frame(2), frame(3), frame(9)]);
  for (const session of sessions) await session.settled();
  t.deepEqual(
    sessions.map(({ heard }) => heard),
    [[1, 2, 3, 9], [1, 2, 3, 9], []],
  );
  t.deepEqual(
    sessions.map(({ framesAhead }) => framesAhead),
    [0, 0, 0],
  );
});

test('what was sent ahead is withdrawn from those who have some of it', async (t) => {
  const [some, none] = [new HeardSession('some', 4), new HeardSession('none', null)];
  sendAhead([some, none], 0, [frame(1)]);
  withdrawAhead([some, none], 3);
  sendRecord([some, none], 5, [frame(7)]);
  for (const session of [some, none]) await session.settled();
  t.deepEqual(some.heard, [1, { kind: 'updateWithdrawn', step: 3 }, 7]);
  t.deepEqual(none.heard, []);
});

test('a notice is not said twice, nor to who was not welcomed yet', async (t) => {
  const [live, fresh] = [new HeardSession('live', 4), new HeardSession('new', null)];
  for (const text of ['wait', 'wait', 'go']) sendNotice([live, fresh], text);
  for (const session of [live, fresh]) await session.settled();
  t.deepEqual(live.heard, [
    { kind: 'notice', text: 'wait' },
    { kind: 'notice', text: 'go' },
  ]);
  t.deepEqual(fresh.heard, []);
});

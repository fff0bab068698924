import test from 'ava';
import {
  createChangeLogger,
  createLogger,
  createRateLimitedLogger,
  formatLogLine,
  printable,
  type LogLevel,
} from '../src/log.ts';

function lines(
  level: LogLevel,
  format: 'json' | 'text',
): { readonly written: string[]; readonly log: ReturnType<typeof createLogger> } {
  const written: string[] = [];
  const log = createLogger({ level, format, mayColour: false, write: (line) => void written.push(line) });
  return { written, log };
}

test('a JSON line has level, time, event, message and the fields', (t) => {
  const { written, log } = lines('info', 'json');
  log.info('trainer.joined', { trainer: 'a', step: 3 }, 'a joined');
  const { time, ...rest } = JSON.parse(written[0] ?? '') as Record<string, unknown>;
  t.deepEqual(rest, { level: 'info', event: 'trainer.joined', message: 'a joined', trainer: 'a', step: 3 });
  t.regex(String(time), /^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
  t.true(written[0]?.endsWith('\n'));
});

test('lines below the level are not written', (t) => {
  const { written, log } = lines('warn', 'text');
  log.debug('a', {}, 'x');
  log.info('a', {}, 'x');
  log.warn('a', {}, 'x');
  log.error('a', {}, 'x');
  t.is(written.length, 2);
});

test('a line for people is time, level, sentence and fields', (t) => {
  const json = JSON.stringify({
    level: 'warn',
    time: '2030-01-02T03:04:05.678Z',
    event: 'trainer.slow',
    message: 'a is slow',
    trainer: 'a b',
    seconds: 1.5,
    ids: [1, 2],
  });
  t.is(formatLogLine(json, false), '03:04:05Z warn  a is slow trainer="a b" seconds=1.5 ids=[1,2]\n');
  t.true(formatLogLine(json, true).startsWith('03:04:05Z \u001b[33mwarn \u001b[0m a is slow'));
});

test('what comes from elsewhere cannot write control characters or further lines', (t) => {
  const { written, log } = lines('info', 'text');
  log.info('x', { reason: 'b\u001b[31m' }, 'one\ntwo\r\u0007');
  t.regex(written[0] ?? '', /^\S+ info {2}one two {2}reason=b \[31m\n$/);
  t.is(printable('a\u202eb'), 'a b');
});

test('a change logger writes a reason once until it changes', (t) => {
  const { written, log } = lines('info', 'json');
  const waiting = createChangeLogger(log, 'quorum.waiting');
  waiting('1 of 2 trainers');
  waiting('1 of 2 trainers');
  waiting('2 of 3 trainers');
  waiting(null);
  waiting('2 of 3 trainers');
  t.deepEqual(
    written.map((line) => (JSON.parse(line) as { message: string }).message),
    ['1 of 2 trainers', '2 of 3 trainers', '2 of 3 trainers'],
  );
});

test('lines that strangers cause are few however many they are, and say how many were left out', (t) => {
  const { written, log } = lines('debug', 'json');
  let nowMs = 0;
  const limited = createRateLimitedLogger(log, { burst: 3, perSecond: 1 }, () => nowMs);
  const said = (): unknown[] =>
    written.splice(0).map((line) => {
      const { event, dropped = 0 } = JSON.parse(line) as { event: string; dropped?: number };
      return [event, dropped];
    });
  for (let i = 0; i < 100; i++) limited.warn('trainer.refused', {}, 'x');
  limited.info('trainer.joined', {}, 'another event has lines of its own');
  t.deepEqual(said(), [...Array(3).fill(['trainer.refused', 0]), ['trainer.joined', 0]]);
  nowMs = 1_500;
  for (let i = 0; i < 10; i++) limited.warn('trainer.refused', {}, 'x');
  t.deepEqual(said(), [['trainer.refused', 97]]);
  for (let i = 0; i < 10; i++) limited.debug('connection.opened', {}, 'x');
  t.is(said().length, 10);
});

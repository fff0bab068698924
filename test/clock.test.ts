/** Deadlines, heartbeats, locks and caches must not follow the time of day: these are all the places that look at it. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';

const SOURCE = join(import.meta.dirname, '..', '..', 'src');

const PLACES = [
  'cli/token.ts', // when a token is made, and until when it is good
  'cli/wan/measurement.ts', // reads the times in the logs of a benchmark
  'coordinator/doorkeeper.ts', // whether a token or a certificate has expired
  'coordinator/new-run.ts', // `created` of the first checkpoint
  'coordinator/prepare-run.ts', // `created` of the others
  'coordinator/run-monitor.ts', // since when the process runs, as Prometheus wants it
  'coordinator/tensorboard-log.ts', // the time that event files have beside each number
  'gateway/mirror.ts', // `created` of the snapshot that is passed on
  'identity/token.ts', // whether a token has expired
];

test('the time of day is looked at where tokens expire and where it is written down, and nowhere else', (t) => {
  const found = readdirSync(SOURCE, { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.ts'))
    .filter((path) => /\bDate\b/.test(withoutComments(readFileSync(join(SOURCE, path), 'utf8'))));
  t.deepEqual(found.sort(), PLACES);
});

function withoutComments(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, '');
}

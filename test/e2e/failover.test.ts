/** `galore chaos --state nats` as a user calls it: leaders that are killed and held up, real processes, a real nats-server. */
import test from 'ava';
import { galore, temporaryFolder } from '../helpers/galore.ts';
import { needsNats } from '../helpers/nats-server.ts';

test.serial(
  'a leader that is killed and one that is held up past its lease lose and repeat nothing',
  async (t) => {
    if (!needsNats(t)) return;
    t.timeout(180_000);
    const args = ['--state', 'nats', '--standbys', '1', '--kills', '2', '--faults', 'kill,stop'];
    const more = ['--steps', '40', '--seed', '2', '--dir', temporaryFolder(t), '--json'];
    const { code, output } = await galore(t, 'chaos', ...args, ...more);
    t.is(code, 0, output);
    const line = output.split('\n').find((each) => each.startsWith('{'))!;
    const verdict = JSON.parse(line) as Record<string, unknown>;
    t.like(verdict, {
      ...{ steps: 40, hung: false, faultsFired: 2, unexpectedEnds: 0 },
      ...{ lostSteps: 0, duplicateSteps: 0, recordsUnlikeStore: 0, coverageExact: true, weightsEqual: true },
    });
    t.true((verdict['epochs'] as number) >= 3, line);
  },
);

test.serial('what belongs to standbys alone is refused without them', async (t) => {
  const chaos = await galore(t, 'chaos', '--faults', 'nats');
  t.is(chaos.code, 2, chaos.output);
  t.regex(chaos.output, /--faults is nats; it must be some of kill,stop,cut,isolate,delay/);
});

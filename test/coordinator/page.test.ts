/** The page and the metrics of a real coordinator, whose trainer computes nothing. */
import { appendFileSync, readdirSync, readFileSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { WebSocket } from 'ws';
import type { ViewEvent } from '../../src/view/events.ts';
import { DirectoryView } from '../../src/coordinator/directory-view.ts';
import { readRunDirectory } from '../../src/coordinator/store/run-directory.ts';
import { readEvents } from '../../src/view/tensorboard.ts';
import { listCurves, parseExposition } from '../support/exposition.ts';
import { Mailbox } from '../support/mailbox.ts';
import { placeOf, runTo } from '../support/stand-in-run.ts';
import { StandInTrainer } from '../support/stand-in-trainer.ts';

interface Line {
  readonly step: number;
  readonly loss: number;
  readonly tokens: number;
}

test.serial(
  'a run is shown live, and its metrics keep to the rules of Prometheus and agree with metrics.jsonl',
  async (t) => {
    const place = placeOf(t, { steps: 6, tensorboard: true });
    const trainer = new StandInTrainer(place.run, 'berlin');
    const events = new Mailbox<ViewEvent>();
    let metrics: Promise<string> | null = null;
    const { error } = await runTo(t, place, trainer, ({ url }) => {
      const page = new WebSocket(`${url}live`);
      page.on('message', (data: Buffer) => events.put(JSON.parse(data.toString()) as ViewEvent));
      page.on('error', (fault) => t.fail(String(fault)));
      trainer.onRecord = (sequence) => {
        if (sequence === 5)
          metrics = fetch(`${url.replace('ws:', 'http:')}metrics`).then((each) => each.text());
      };
    });
    t.is(error, null);
    const lines = readFileSync(join(place.config.dir, 'metrics.jsonl'), 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Line);

    const told = await events.takeWhere((event) => event.type === 'now' && event.state === 'completed');
    t.true(told.type === 'now' && told.step === 6);
    t.true(told.type === 'now' && told.trainers.some(({ trainerId }) => trainerId === 'berlin'));

    const families = parseExposition(await metrics!);
    const at = families.get('galore_steps_total')!.samples[0]!.value;
    t.true(at >= 3 && at <= 6);
    const tokens = lines.slice(0, at).reduce((sum, line) => sum + line.tokens, 0);
    const shown = families.get('galore_tokens_total')!.samples[0]!.value;
    // The line of the newest step may be on its way to the file.
    t.true(shown === tokens || shown === tokens - lines[at - 1]!.tokens);
    t.like(
      families.get('galore_trainers')!.samples.find(({ labels }) => labels['state'] === 'ready'),
      { value: 1 },
    );
    const documented = [
      ...readFileSync('docs/monitoring.md', 'utf8').matchAll(/^\| `((?:galore|process)_\w+)/gm),
    ];
    t.deepEqual(
      [...families.keys()].sort(),
      documented.map(([, name]) => name!).sort(),
      'docs/monitoring.md',
    );

    const curves = listCurves(readEvents(readFileSync(eventFile(place.config.dir))));
    t.deepEqual(
      curves.get('train/loss'),
      lines.map(({ step, loss }) => [step, Math.fround(loss)]),
    );
  },
);

test.serial(
  'a directory shows its run to the end, and goes back when a resumed run has cut steps off',
  async (t) => {
    const place = placeOf(t, { steps: 3 });
    await runTo(t, place, new StandInTrainer(place.run));
    const view = new DirectoryView(await readRunDirectory(place.config.dir), place.config);
    await view.refresh();
    t.like(view.now(), { state: 'completed', step: 3, activity: 'all 3 steps are done' });
    t.deepEqual(
      view.history.history.points.map(({ to }) => to),
      [1, 2, 3],
    );
    const { history } = view;
    await view.refresh();
    t.is(view.history, history, 'nothing is new');

    const path = join(place.config.dir, 'metrics.jsonl');
    const [first = ''] = readFileSync(path, 'utf8').split('\n');
    truncateSync(path, first.length + 1);
    await view.refresh();
    t.not(view.history, history);
    t.is(view.history.newest?.step, 1);
    appendFileSync(path, `${JSON.stringify({ step: 2, loss: 9 })}\n{"step":3,`);
    await view.refresh();
    t.is(view.history.newest?.loss, 9, 'half a line is not read');
  },
);

function eventFile(dir: string): string {
  return join(dir, 'tensorboard', readdirSync(join(dir, 'tensorboard'))[0]!);
}

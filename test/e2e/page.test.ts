/** The status page in a browser, during a run with a tensor engine. */
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import type { Page } from 'playwright-core';
import { count, loss } from '../../dashboard/words.ts';
import { faultsOf, HAS_CHROMIUM, openBrowser } from '../helpers/browser.ts';
import { Galore, TEST_TEXT, TestRun, tinyConfig, type Metric } from '../helpers/galore.ts';

const TITLE =
  'the page shows what metrics.jsonl says, during a run, through a restart of its coordinator and at its end';
const run = HAS_CHROMIUM ? test.serial : test.serial.skip;

run(`${TITLE} (needs chromium)`, async (t) => {
  t.timeout(300_000);
  const port = await freePort();
  const steps = 120;
  const tiny = new TestRun(
    t,
    tinyConfig(TEST_TEXT, {
      coordinator: { port },
      evaluation: { every: 20, sequences: 16 },
      checkpoint: { every: 20 },
      tensorboard: true,
      steps,
    }),
  );
  const browser = await openBrowser(t);
  const page = await browser.newPage();
  const origin = `http://127.0.0.1:${port}`;
  const faults = faultsOf(page, origin);
  const first = new Galore(t, tiny.trainArgs(1));
  await listening(origin);
  await page.goto(origin);
  await page.locator('#connection', { hasText: /^Live$/ }).waitFor();
  await page.locator('#recent tbody tr').nth(2).waitFor();
  await isAsMetrics(t, page, tiny);
  t.deepEqual(await seriousFaults(page), []);
  t.is(await page.locator('#trainers tbody th').first().textContent(), 'trainer-1');

  first.child.kill('SIGKILL');
  await first.exited;
  await page.locator('#connection', { hasText: /^Connection lost; waiting for the coordinator/ }).waitFor();
  const before = tiny.metrics.length;
  t.true(before < steps, `the run was over before it was killed: ${before} steps`);
  const second = new Galore(t, ['resume', tiny.dir]);
  await page.locator('#connection', { hasText: /^Live$/ }).waitFor({ timeout: 60_000 });
  await page.locator('#state', { hasText: /^completed$/ }).waitFor({ timeout: 120_000 });
  t.is(await second.exited, 0, second.output);

  t.is(await page.locator('#progress-text').textContent(), `step ${steps} of ${steps}`);
  t.is((await isAsMetrics(t, page, tiny))[0]?.[0], String(steps));
  const [held] = tiny.evaluations.slice(-1);
  t.is(await figure(page, 'validation'), loss(held!.loss));
  t.regex((await page.locator('#loss').getAttribute('aria-label'))!, new RegExp(`in step ${steps}, lowest`));
  t.deepEqual(faults, []);

  const view = new Galore(t, ['view', tiny.dir]);
  const [url] = await view.printed(/http:\/\/127\.0\.0\.1:\d+\//);
  await page.goto(url);
  await page.locator('#state', { hasText: /^completed$/ }).waitFor();
  await isAsMetrics(t, page, tiny);
  t.deepEqual(await seriousFaults(page), []);
  await page.emulateMedia({ colorScheme: 'dark' });
  t.deepEqual(await seriousFaults(page), []);
  view.child.kill('SIGINT');
  t.is(await view.exited, 0);
});

/** Each row of "Last steps" against its line; resolves to the rows, the newest first. */
async function isAsMetrics(
  t: { is(a: unknown, b: unknown, text?: string): boolean },
  page: Page,
  { dir }: TestRun,
): Promise<string[][]> {
  const rows = await page.evaluate<string[][]>(
    '[...document.querySelectorAll("#recent tbody tr")].map((row) => [...row.cells].map((cell) => cell.textContent))',
  );
  // The page may be a line behind the file, never ahead of it.
  const lines = readFileSync(`${dir}/metrics.jsonl`, 'utf8')
    .split('\n')
    .filter((line) => line.endsWith('}'))
    .map((line) => JSON.parse(line) as Metric);
  for (const [step, shownLoss, tokens] of rows) {
    const line = lines.find((each) => String(each.step) === step);
    t.is(shownLoss, loss(line?.loss ?? null), `loss of step ${step}`);
    t.is(tokens, count(line?.tokens ?? null), `tokens of step ${step}`);
  }
  t.is(await figure(page, 'trainers'), '1');
  return rows;
}

function figure(page: Page, name: string): Promise<string | null> {
  return page
    .locator('#figures > div', { has: page.locator('dt', { hasText: name }) })
    .locator('dd')
    .textContent();
}

interface AxeResults {
  readonly violations: readonly { readonly id: string; readonly impact: string }[];
}

/** What axe finds that is serious or critical. */
async function seriousFaults(page: Page): Promise<string[]> {
  const axe = createRequire(import.meta.url).resolve('axe-core/axe.min.js');
  await page.evaluate(readFileSync(axe, 'utf8'));
  const { violations } = await page.evaluate<AxeResults>('axe.run(document)');
  return violations
    .filter(({ impact }) => impact === 'serious' || impact === 'critical')
    .map(({ id, impact }) => `${impact}: ${id}`);
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

async function listening(origin: string): Promise<void> {
  for (let tries = 0; tries < 600; tries++) {
    if (
      await fetch(`${origin}/healthz`).then(
        ({ ok }) => ok,
        () => false,
      )
    )
      return;
    await sleep(100);
  }
  throw new Error(`${origin} does not answer`);
}

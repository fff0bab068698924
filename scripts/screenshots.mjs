/**
 * `npm run screenshots`: runs a small training and takes the pictures of docs/screenshots from its status page, with
 * Debian's Chromium (apt-get install chromium).
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { chromium } from 'playwright-core';
import { ROOT, setUp } from './setup.mjs';

const PORT = 29477;
const PICTURES = [
  { name: 'desktop', context: { viewport: { width: 1200, height: 880 } } },
  { name: 'dark', context: { viewport: { width: 1200, height: 880 }, colorScheme: 'dark' } },
  { name: 'phone', context: { viewport: { width: 390, height: 844 }, isMobile: true } },
];
const SETTINGS = [
  ...['coordinator.port=' + PORT, 'coordinator.outliers=clip', 'evaluation.every=10', 'checkpoint.every=20'],
  ...['model.hidden_size=64', 'model.intermediate_size=176', 'model.num_hidden_layers=2', 'seq_len=64'],
];

await setUp();
const folder = mkdtempSync(join(tmpdir(), 'galore-screenshots-'));
const run = spawn(
  process.execPath,
  [
    ...['bin/galore.js', 'train', 'examples/sotu.yaml', '--trainers', '2', '--steps', '1000'],
    ...['--dir', join(folder, 'run'), ...SETTINGS.flatMap((setting) => ['--set', setting])],
  ],
  { cwd: ROOT, stdio: ['ignore', 'ignore', 'inherit'] },
);
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-dev-shm-usage'],
});
try {
  const origin = `http://127.0.0.1:${PORT}`;
  const isThere = () =>
    fetch(origin).then(
      () => true,
      () => false,
    );
  while (!(await isThere())) {
    if (run.exitCode !== null) throw new Error('the run has ended');
    await sleep(200);
  }
  for (const { name, context } of PICTURES) {
    const page = await browser.newPage(context);
    await page.goto(origin);
    // Enough of a curve to look at.
    await page
      .locator('#recent tbody th', { hasText: /^([4-9]\d|\d{3,})$/ })
      .first()
      .waitFor({ timeout: 300_000 });
    await page.screenshot({ path: join(ROOT, 'docs/screenshots', `${name}.png`) });
    await page.close();
  }
} finally {
  await browser.close();
  const ended = new Promise((resolve) => run.once('close', resolve));
  run.kill('SIGINT');
  await ended;
  rmSync(folder, { recursive: true, force: true });
}

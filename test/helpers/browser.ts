/** Debian's Chromium without a window, for tests of the status page; null where it is not installed. */
import { existsSync } from 'node:fs';
import type { ExecutionContext } from 'ava';
import { chromium, type Browser, type Page } from 'playwright-core';

const PROGRAM = '/usr/bin/chromium';

/** Whether there is one; a test that needs it is left out by name otherwise. */
export const HAS_CHROMIUM = existsSync(PROGRAM);

/** One that ends with the test. */
export async function openBrowser(t: ExecutionContext): Promise<Browser> {
  const browser = await launch();
  t.teardown(() => browser.close());
  return browser;
}

/** Alone in its container: the sandbox would need rights that a test has not. */
export function launch(): Promise<Browser> {
  return chromium.launch({ executablePath: PROGRAM, args: ['--no-sandbox', '--disable-dev-shm-usage'] });
}

/** What a page says of itself that must not be: errors, refused by its policy, asked of elsewhere. */
export function faultsOf(page: Page, origin: string): string[] {
  const faults: string[] = [];
  page.on('pageerror', (error) => faults.push(String(error)));
  page.on('console', (message) => {
    // That a connection was lost is what the browser says, not the page.
    if (
      message.type() === 'error' &&
      !/WebSocket connection|ERR_CONNECTION|Failed to load/.test(message.text())
    )
      faults.push(message.text());
  });
  page.on('request', (request) => {
    const { host } = new URL(request.url());
    if (host !== new URL(origin).host) faults.push(`asks ${request.url()}`);
  });
  return faults;
}

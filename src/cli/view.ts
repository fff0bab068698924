/** `galore view DIR`: the status page of a run from its directory, on this machine alone. */
import type { Command } from 'commander';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join, resolve } from 'node:path';
import { systemClock } from '../clock.ts';
import { loadRunConfig } from '../config/load.ts';
import { DirectoryView } from '../coordinator/directory-view.ts';
import { cannotListen } from '../coordinator/listen-error.ts';
import { readRunDirectory } from '../coordinator/store/run-directory.ts';
import { deferred } from '../deferred.ts';
import { SILENT_LOGGER } from '../log.ts';
import { LIVE_PATH, pathOf } from '../view/paths.ts';
import { StatusPage } from '../view/status-page.ts';
import { NO_VIEWER_TOKENS } from '../view/view-gate.ts';
import type { CliContext } from './context.ts';
import { EXIT_CODES } from './exit-codes.ts';
import { onInterrupt } from './interrupts.ts';
import { debugOption, wholeNumber } from './options.ts';
import { RUN_FILE } from './run-file.ts';

/** Others reach it through a tunnel, or the page of the coordinator with a token. */
const HOST = '127.0.0.1';
/** How often the files are looked at. */
const LOOK_INTERVAL_MS = 1000;

interface ViewFlags {
  readonly port: number;
}

/** Adds the command; `finish` takes its exit code. */
export function registerViewCommand(
  program: Command,
  context: CliContext,
  finish: (code: number) => void,
): void {
  program
    .command('view')
    .argument('<dir>', 'run directory, such as runs/sotu')
    .summary('show a run in the browser')
    .description(
      'Serves the status page of a run from its directory, to this machine alone: of one that has ended,\n' +
        'or beside a coordinator that is at work. Reads only: a run that is going on is not disturbed.',
    )
    .option('--port <n>', 'port of 127.0.0.1; 0: any free one', wholeNumber(0, 65535), 0)
    .addOption(debugOption())
    .addHelpText(
      'after',
      `
Examples:
  galore view runs/sotu
  galore view runs/sotu --port 8080

Ctrl-C ends it. The coordinator itself has the page too, at its own port: docs/monitoring.md.`,
    )
    .action(async (dir: string, flags: ViewFlags) => finish(await viewRun(context, dir, flags)));
}

async function viewRun(context: CliContext, dir: string, { port }: ViewFlags): Promise<number> {
  const run = await readRunDirectory(resolve(context.workingDir, dir));
  const { workingDir, environment } = context;
  const config = loadRunConfig(join(run.path, RUN_FILE), { workingDir, homeDir: environment.homeDir });
  const source = new DirectoryView(run, config);
  await source.refresh();
  const gate = { viewers: NO_VIEWER_TOKENS, host: HOST };
  const page = new StatusPage({ source, gate, logger: SILENT_LOGGER, nowMs: () => systemClock.nowMs() });
  const server = createServer((request, response) => page.respond(request, response));
  server.on('upgrade', (request, socket, head) => {
    if (pathOf(request) === LIVE_PATH) page.upgrade(request, socket, head);
    else socket.destroy();
  });
  const ended = deferred<void>();
  await new Promise<void>((listening, failed) => {
    server.once('error', (error: NodeJS.ErrnoException) => failed(cannotListen(HOST, port, error)));
    server.listen(port, HOST, listening);
  });
  using _ = onInterrupt(context.signals, { first: () => ended.resolve(), again: () => ended.resolve() });
  let isReading = false;
  const timer = setInterval(() => {
    if (isReading || page.viewers === 0) return;
    isReading = true;
    source
      .refresh()
      .catch((error: unknown) => ended.reject(error))
      .finally(() => (isReading = false));
  }, LOOK_INTERVAL_MS);
  context.stdout.write(`http://${HOST}:${(server.address() as AddressInfo).port}/ (Ctrl-C ends it)\n`);
  try {
    await ended.promise;
    return EXIT_CODES.OK;
  } finally {
    clearInterval(timer);
    page.close();
    server.close();
    server.closeAllConnections();
  }
}

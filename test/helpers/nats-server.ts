/** Real NATS servers of a test's own, at a free port of this machine, gone after it. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';

const PROGRAM = 'nats-server';

/** Whether `nats-server` is installed. */
export const HAS_NATS = spawnSync(PROGRAM, ['--version']).status === 0;

/** False, with the reason printed, where it is not: the test ends then. */
export function needsNats(t: ExecutionContext): boolean {
  if (HAS_NATS) return true;
  t.log(`skipped: ${PROGRAM} is not installed`);
  t.pass();
  return false;
}

export interface NatsServerOptions {
  /** False: without JetStream. */
  readonly jetStream?: boolean;
  /** More of its configuration file. */
  readonly more?: string;
}

/** A server that can be stopped, started again with what it has stored, and paused. */
export class NatsServer {
  readonly url: string;
  readonly folder: string;
  readonly #configPath: string;
  #child: ChildProcess | null = null;
  #exited: Promise<unknown> = Promise.resolve();
  #output = '';

  constructor(
    t: ExecutionContext,
    port: number,
    config: string,
    { jetStream = true }: NatsServerOptions = {},
  ) {
    this.url = `nats://127.0.0.1:${port}`;
    this.folder = mkdtempSync(join(tmpdir(), 'galore-test-nats-'));
    this.#configPath = join(this.folder, 'nats.conf');
    const storage = jetStream ? `jetstream { store_dir: "${join(this.folder, 'store')}" }\n` : '';
    // What a test says of JetStream itself takes the place of ours.
    const own = /^jetstream/m.test(config) ? '' : storage;
    const text = `listen: "127.0.0.1:${port}"\n${own}${config.replaceAll('STORE_DIR', join(this.folder, 'store'))}\n`;
    writeFileSync(this.#configPath, text);
    t.teardown(async () => {
      await this.kill();
      rmSync(this.folder, { recursive: true, force: true });
    });
  }

  get pid(): number {
    return this.#child!.pid!;
  }

  /** Everything it has logged. */
  get output(): string {
    return this.#output;
  }

  /** Resolves when it takes connections. */
  async start(): Promise<this> {
    const child = spawn(PROGRAM, ['-c', this.#configPath], { stdio: ['ignore', 'ignore', 'pipe'] });
    this.#child = child;
    this.#exited = once(child, 'close');
    await new Promise<void>((resolve, reject) => {
      let started = '';
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        this.#output += text;
        started += text;
        if (started.includes('Server is ready')) resolve();
      });
      child.once('close', () => reject(new Error(`${PROGRAM} ended:\n${started}`)));
    });
    return this;
  }

  /** kill -9 */
  async kill(): Promise<void> {
    this.#child?.kill('SIGKILL');
    await this.#exited;
  }

  /** Resolves when all its threads stand still: the signal alone may leave one of them the time for an answer. */
  async pause(): Promise<void> {
    this.#child?.kill('SIGSTOP');
    const tasks = `/proc/${this.#child?.pid}/task`;
    const isStopped = (task: string): boolean =>
      /^State:\tT/m.test(readFileSync(join(tasks, task, 'status'), 'utf8'));
    while (!readdirSync(tasks).every(isStopped)) await new Promise(setImmediate);
  }

  goOn(): void {
    this.#child?.kill('SIGCONT');
  }
}

export async function startNatsServer(
  t: ExecutionContext,
  options: NatsServerOptions = {},
): Promise<NatsServer> {
  const [port] = await freePorts(1);
  return await new NatsServer(t, port!, options.more ?? '', options).start();
}

/** Servers that know each other; JetStream has a leader when this resolves. */
export async function startNatsCluster(t: ExecutionContext, count: number): Promise<readonly NatsServer[]> {
  const ports = await freePorts(2 * count);
  const routes = ports.slice(count).map((port) => `nats://127.0.0.1:${port}`);
  const servers = Array.from({ length: count }, (_, i) => {
    const cluster = `listen: "127.0.0.1:${ports[count + i]}", routes: [${routes.map((r) => `"${r}"`).join(', ')}]`;
    return new NatsServer(t, ports[i]!, `server_name: "n${i}"\ncluster { name: "test", ${cluster} }`);
  });
  await Promise.all(servers.map((server) => server.start()));
  return servers;
}

/** Free a moment ago. */
async function freePorts(count: number): Promise<readonly number[]> {
  const listeners = await Promise.all(
    Array.from({ length: count }, async () => {
      const listener = createServer().listen(0, '127.0.0.1');
      await once(listener, 'listening');
      return listener;
    }),
  );
  const ports = listeners.map((listener) => (listener.address() as AddressInfo).port);
  for (const listener of listeners) {
    listener.close();
    await once(listener, 'close');
  }
  return ports;
}

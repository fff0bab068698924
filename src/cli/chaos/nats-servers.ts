/** nats-server processes of a run under `galore chaos`: one, or a cluster, with JetStream on disk. SHELL. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir } from 'node:fs/promises';
import { connect, createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { OperatingError } from '../../errors.ts';

/** Until a server that was started answers. */
const START_TIME_MS = 20_000;
const LOOK_GAP_MS = 50;
const HEALTH_TIMEOUT_MS = 1_000;

interface Node {
  readonly name: string;
  readonly port: number;
  readonly monitorPort: number;
  readonly args: readonly string[];
  process: ChildProcess | null;
}

export class NatsServers {
  readonly #nodes: readonly Node[];

  private constructor(nodes: readonly Node[]) {
    this.#nodes = nodes;
  }

  /** @throws OperatingError where there is no nats-server, or it does not start */
  static async start(count: number, folder: string): Promise<NatsServers> {
    const ports = await freePorts(3 * count);
    const [monitorPorts, routePorts] = [ports.slice(count, 2 * count), ports.slice(2 * count)];
    const routes = routePorts.map((port) => `nats://127.0.0.1:${port}`);
    await mkdir(folder, { recursive: true });
    const nodes = Array.from({ length: count }, (_, i): Node => {
      const name = `n${i + 1}`;
      const cluster = ['--cluster_name', 'chaos', '--cluster', routes[i]!, '--routes', routes.join()];
      const place = ['-sd', join(folder, name), '-l', join(folder, `${name}.log`)];
      const monitorPort = monitorPorts[i]!;
      const own = ['-a', '127.0.0.1', '-p', String(ports[i]), '-m', String(monitorPort), '-n', name, '-js'];
      // Coordinators are to know of the proxies alone.
      const args = [...own, ...place, ...(count === 1 ? [] : [...cluster, '--no_advertise'])];
      return { name, port: ports[i]!, monitorPort, args, process: null };
    });
    const servers = new NatsServers(nodes);
    try {
      for (const node of nodes) servers.#start(node);
      await Promise.all(nodes.map((node) => untilListening(node)));
      return servers;
    } catch (error) {
      await servers.close();
      throw error;
    }
  }

  get ports(): readonly number[] {
    return this.#nodes.map(({ port }) => port);
  }

  /** SIGKILL. */
  kill(index: number): void {
    this.#nodes[index]!.process?.kill('SIGKILL');
  }

  /** After a kill, with what is on its disk. */
  startAgain(index: number): void {
    const node = this.#nodes[index]!;
    const { process } = node;
    if (process === null || process.exitCode !== null || process.signalCode !== null) this.#start(node);
    else process.once('exit', () => this.#start(node));
  }

  /** Whether all of them run, and each stream has a leader and all its copies are up to date. */
  async areWhole(): Promise<boolean> {
    const healthy = this.#nodes.map(async ({ monitorPort }) => {
      const signal = AbortSignal.timeout(HEALTH_TIMEOUT_MS);
      return await fetch(`http://127.0.0.1:${monitorPort}/healthz`, { signal }).then(
        ({ ok }) => ok,
        () => false,
      );
    });
    return (await Promise.all(healthy)).every(Boolean);
  }

  async close(): Promise<void> {
    for (const { process } of this.#nodes) {
      if (process === null || process.exitCode !== null || process.signalCode !== null) continue;
      process.removeAllListeners('exit'); // it is not started again
      const ended = once(process, 'exit');
      process.kill('SIGKILL');
      await ended;
    }
  }

  #start(node: Node): void {
    const child = spawn('nats-server', node.args, { stdio: 'ignore' });
    child.on('error', () => {}); // it does not listen: that is told
    node.process = child;
  }
}

async function untilListening({ name, port, process }: Node): Promise<void> {
  const deadlineMs = performance.now() + START_TIME_MS;
  while (performance.now() < deadlineMs) {
    if (process?.pid === undefined) {
      throw new OperatingError('nats-server cannot be started: install it (Debian: nats-server)');
    }
    if (process.exitCode !== null)
      throw new OperatingError(`nats-server ${name} ended (${process.exitCode})`);
    const socket = connect(port, '127.0.0.1');
    const isThere = await new Promise<boolean>((resolve) => {
      socket.once('connect', () => resolve(true));
      socket.once('error', () => resolve(false));
    });
    socket.destroy();
    if (isThere) return;
    await sleep(LOOK_GAP_MS);
  }
  throw new OperatingError(`nats-server ${name} does not answer`);
}

async function freePorts(count: number): Promise<readonly number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(servers.map((server) => once(server, 'listening')));
  const ports = servers.map((server) => (server.address() as AddressInfo).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

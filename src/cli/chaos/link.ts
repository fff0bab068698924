/** A link between a trainer and the coordinator that can be cut, isolated and slowed: a TCP proxy on loopback. SHELL. */
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';

/** Bytes on their way through one direction of a slowed connection; more are not read. */
const MAX_UNDERWAY_BYTES = 4 * 1024 * 1024;

export class Link {
  readonly #server: Server;
  readonly #connections = new Set<Connection>();
  #targetPort: number | null = null;
  #isCut = false;
  #isIsolated = false;
  #latencyMs = 0;

  private constructor(server: Server) {
    this.#server = server;
    server.on('connection', (near: Socket) => this.#accept(near));
  }

  static async open(): Promise<Link> {
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new Link(server);
  }

  /** Where the trainer connects. */
  get url(): string {
    return `ws://127.0.0.1:${(this.#server.address() as AddressInfo).port}/`;
  }

  /** Where connections lead from now on; null: nobody is there. */
  set targetPort(port: number | null) {
    this.#targetPort = port;
  }

  /** Ends all connections and takes no new one, until `mend`. */
  cut(): void {
    this.#isCut = true;
    for (const connection of this.#connections) connection.break();
  }

  /** Nothing comes through and nothing is closed, until `mend`. */
  isolate(): void {
    this.#isIsolated = true;
    for (const connection of this.#connections) connection.hold();
  }

  /** What comes from now on comes through so much later. */
  delay(latencyMs: number): void {
    this.#latencyMs = latencyMs;
  }

  mend(): void {
    this.#isCut = false;
    this.#isIsolated = false;
    this.#latencyMs = 0;
    for (const connection of this.#connections) connection.goOn();
  }

  close(): void {
    this.#server.close();
    for (const connection of this.#connections) connection.end();
  }

  #accept(near: Socket): void {
    near.on('error', ignore);
    if (this.#isCut || this.#targetPort === null) return void near.resetAndDestroy();
    const far = connect({ port: this.#targetPort, host: '127.0.0.1', allowHalfOpen: true });
    far.on('error', ignore);
    const connection: Connection = new Connection(
      near,
      far,
      () => this.#latencyMs,
      () => this.#connections.delete(connection),
    );
    this.#connections.add(connection);
    if (this.#isIsolated) connection.hold();
    else connection.goOn();
  }
}

/** The two sockets of a connection that goes through. */
class Connection {
  readonly #near: Socket;
  readonly #far: Socket;
  readonly #onGone: () => void;
  readonly #directions: readonly Direction[];
  #isHeld = false;

  constructor(near: Socket, far: Socket, latencyMs: () => number, onGone: () => void) {
    this.#near = near;
    this.#far = far;
    this.#onGone = onGone;
    this.#directions = [new Direction(near, far, latencyMs), new Direction(far, near, latencyMs)];
    for (const socket of [near, far]) {
      socket.setNoDelay(true);
      socket.on('close', () => this.#closed());
    }
  }

  hold(): void {
    this.#isHeld = true;
    for (const direction of this.#directions) direction.hold();
  }

  goOn(): void {
    this.#isHeld = false;
    for (const direction of this.#directions) direction.goOn();
    if (this.#near.destroyed || this.#far.destroyed) this.end();
  }

  break(): void {
    this.#near.resetAndDestroy();
    this.#far.resetAndDestroy();
    this.#onGone();
  }

  end(): void {
    this.#near.destroy();
    this.#far.destroy();
    this.#onGone();
  }

  /** That one side is gone comes through like all else: not while nothing does. */
  #closed(): void {
    if (!this.#isHeld) this.end();
  }
}

/** From one socket to the other, in order, each piece at its time. */
class Direction {
  readonly #from: Socket;
  readonly #to: Socket;
  readonly #latencyMs: () => number;
  readonly #underway: { readonly chunk: Buffer | null; readonly atMs: number }[] = [];
  #underwayBytes = 0;
  #isHeld = true;
  #timer: NodeJS.Timeout | null = null;

  constructor(from: Socket, to: Socket, latencyMs: () => number) {
    this.#from = from;
    this.#to = to;
    this.#latencyMs = latencyMs;
    from.pause();
    from.on('data', (chunk: Buffer) => this.#take(chunk));
    from.on('end', () => this.#take(null));
    from.on('close', () => this.#clear());
    to.on('drain', () => this.#pass());
  }

  hold(): void {
    this.#isHeld = true;
    this.#from.pause();
  }

  goOn(): void {
    this.#isHeld = false;
    this.#pass();
  }

  /** Null: that the other side has ended. */
  #take(chunk: Buffer | null): void {
    this.#underway.push({ chunk, atMs: performance.now() + this.#latencyMs() });
    this.#underwayBytes += chunk?.length ?? 0;
    this.#pass();
  }

  #pass(): void {
    this.#clear();
    if (this.#isHeld) return;
    for (let next = this.#underway[0]; next !== undefined; next = this.#underway[0]) {
      if (this.#to.destroyed || this.#to.writableNeedDrain) break;
      const waitMs = next.atMs - performance.now();
      if (waitMs > 0) {
        this.#timer = setTimeout(() => this.#pass(), waitMs);
        break;
      }
      this.#underway.shift();
      this.#underwayBytes -= next.chunk?.length ?? 0;
      if (next.chunk === null) this.#to.end();
      else this.#to.write(next.chunk);
    }
    if (this.#underwayBytes > MAX_UNDERWAY_BYTES) this.#from.pause();
    else this.#from.resume();
  }

  #clear(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}

function ignore(): void {
  return;
}

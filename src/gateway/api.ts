/** How the command line, or a program, runs a gateway. Types only; gateway.ts is the work. */
import type { PemPaths } from '../files/pem.ts';
import type { Logger } from '../log.ts';

export interface GatewayOptions {
  /** The coordinator: `ws://` or `wss://`. */
  readonly url: string;
  /** Its name among the coordinator's trainers: sums are added in ascending order of it. */
  readonly gatewayId: string;
  /** The run it wants; empty: whatever run the coordinator has. */
  readonly runName: string;
  /** Join token for the coordinator; empty where none is asked for. A secret: never logged. */
  readonly token: string;
  /** PEM files for wss:// to the coordinator. */
  readonly tls?: PemPaths | undefined;
  /** Where its own trainers connect; port 0: any free one. */
  readonly listen: { readonly host: string; readonly port: number };
  /** PEM files of its own door; left out: no TLS there. */
  readonly doorTls?: { readonly cert: string; readonly key: string; readonly ca?: string } | undefined;
  /** File of the join tokens of its own trainers; left out: `tokens.json` in `dir`, if there is one. */
  readonly tokensPath?: string | undefined;
  /** Listen beyond this machine without tokens or without TLS. */
  readonly isInsecure: boolean;
  /** Folder of the checkpoint and the records that it passes on; it is filled anew whenever it does not fit. */
  readonly dir: string;
  readonly logger: Logger;
  /** What it is doing now, in words, for people. */
  readonly onActivity?: (text: string) => void;
}

/** Why a gateway ended. */
export interface GatewayResult {
  /** The exit status of the process: 0 the run finished or it left as asked; 3 it was refused or lost for good. */
  readonly code: number;
  readonly reason: string;
}

export interface RunningGateway {
  /** Where trainers connect. */
  readonly url: string;
  readonly asksForTokens: boolean;
  readonly finished: Promise<GatewayResult>;
  /** Leaves the run in good order; trainers are told to come back later, or go elsewhere. */
  stop(): void;
  /** On the connection to the coordinator, as the socket counts them. */
  readonly bytesSent: number;
  readonly bytesReceived: number;
}

/** Listens, connects to the coordinator, and goes on until the run ends. @throws ConfigError, DataError or OperatingError */
export type StartGateway = (options: GatewayOptions) => Promise<RunningGateway>;

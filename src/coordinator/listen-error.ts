/** Why an address cannot be listened on, and what to do about it. */
import { OperatingError } from '../errors.ts';

/** The error for a refused `listen`. */
export function cannotListen(host: string, port: number, error: NodeJS.ErrnoException): OperatingError {
  return new OperatingError(`cannot listen on ${host}:${port}: ${adviceOn(error, host, port)}`, {
    cause: error,
  });
}

function adviceOn(error: NodeJS.ErrnoException, host: string, port: number): string {
  switch (error.code) {
    case 'EADDRINUSE':
      return 'another program uses this port; stop it or set coordinator.port (0 picks a free one)';
    case 'EACCES':
      return `this user may not use port ${port}; set coordinator.port to one above 1023`;
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return `${host} is no address of this machine; set coordinator.host (127.0.0.1: this machine only, 0.0.0.0: all its addresses)`;
    default:
      return error.message;
  }
}

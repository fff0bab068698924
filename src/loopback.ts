/** Which addresses only this machine can reach. Pure. */
import { isIP } from 'node:net';

/** True for addresses of the loopback interface and the name `localhost`; false for every other name. */
export function isLoopback(host: string): boolean {
  const address = host.replace(/^\[(.*)\]$/, '$1').toLowerCase();
  if (address === 'localhost' || address === '::1') return true;
  const ipv4 = address.replace(/^::ffff:/, '');
  return isIP(ipv4) === 4 && ipv4.startsWith('127.');
}

/**
 * Where a trainer may find its coordinator: a list of URLs, and of a host name the addresses that DNS has for it. What
 * is tried when is core/route.ts' business. SHELL: asks DNS.
 */
import { lookup } from 'node:dns/promises';
import { isIP, type LookupFunction } from 'node:net';

/** One thing to try. */
export interface Address {
  readonly url: string;
  /** Leads the host name of the URL to one of its addresses; without it the operating system chooses. */
  readonly lookup?: LookupFunction;
  /** The host of the URL, or the address that stands for it. */
  readonly host: string;
}

/** The addresses in a text with commas between them, such as `ws://a:29400,ws://b:29400`. */
export function splitUrls(text: string): readonly string[] {
  return text.split(',').map((url) => url.trim());
}

/** Every URL once, with the host name as it is. */
export function addressesOf(urls: readonly string[]): readonly Address[] {
  return urls.map((url) => ({ url, host: hostOf(url) }));
}

/** What DNS has for a name. @throws where it knows nothing */
export type Resolve = (host: string) => Promise<readonly { address: string; family: number }[]>;

const askDns: Resolve = (host) => lookup(host, { all: true });

/** The same, with each address of a name for itself. A name that cannot be looked up stays as it is. */
export async function findAddresses(
  urls: readonly string[],
  resolve: Resolve = askDns,
): Promise<readonly Address[]> {
  const found = await Promise.all(
    urls.map(async (url): Promise<readonly Address[]> => {
      const host = hostOf(url);
      const plain = addressesOf([url]);
      if (isIP(host) !== 0) return plain;
      const all = await resolve(host).catch(() => []);
      // One of each family is one machine, and the operating system knows which of them can be reached.
      const family = all.filter((each) => each.family === 4).length > 1 ? 4 : 6;
      const machines = [...new Set(all.filter((each) => each.family === family).map((each) => each.address))];
      if (machines.length < 2) return plain;
      return machines.sort().map((address) => ({ url, host: address, lookup: always(address, family) }));
    }),
  );
  return found.flat();
}

/** Which of them is meant by the URL that a standby names; null: none. */
export function indexOfUrl(addresses: readonly Address[], url: string): number | null {
  if (!URL.canParse(url)) return null;
  const { host, port } = endOf(url);
  const index = addresses.findIndex(
    (each) => endOf(each.url).port === port && (hostOf(each.url) === host || each.host === host),
  );
  return index < 0 ? null : index;
}

function always(address: string, family: number): LookupFunction {
  return (_host, options, callback) => {
    if (options.all) callback(null, [{ address, family }]);
    else callback(null, address, family);
  };
}

function hostOf(url: string): string {
  return new URL(url).hostname.replace(/^\[(.*)\]$/, '$1');
}

function endOf(url: string): { readonly host: string; readonly port: string } {
  const { protocol, port } = new URL(url);
  return { host: hostOf(url), port: port === '' ? (protocol === 'wss:' ? '443' : '80') : port };
}

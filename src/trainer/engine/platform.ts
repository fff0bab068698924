/** What the machine is, as far as the engine depends on it, and whether it can run at all. */
import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';

/** The facts about a machine that decide. */
export interface Host {
  readonly platform: string;
  readonly arch: string;
  /** Version of the GNU C library, undefined where there is another one or none. */
  readonly glibc: string | undefined;
  readonly cpuModel: string;
  /** Instruction set extensions as Linux names them; empty where unknown. */
  readonly cpuFlags: ReadonlySet<string>;
}

/** The oldest C library the wheels run with (their tag says manylinux_2_27). */
const OLDEST_GLIBC = '2.27';

let found: Host | undefined;

export function thisHost(): Host {
  found ??= {
    platform: process.platform,
    arch: process.arch,
    glibc: glibcVersion(),
    cpuModel: cpus()[0]?.model.trim() ?? 'unknown processor',
    cpuFlags: cpuFlags(),
  };
  return found;
}

/** One sentence if the engine cannot run on this machine, with what to do; undefined if it can. */
export function unsupportedPlatform(host: Host): string | undefined {
  const fault = platformFault(host);
  if (!fault) return undefined;
  return (
    `the tensor engine runs on Linux x64 with glibc ${OLDEST_GLIBC} or newer, and ${fault}; ` +
    'run it in a Linux container, after installing Docker with: sudo apt-get install docker.io (Debian, Ubuntu), ' +
    'sudo dnf install moby-engine (Fedora), brew install --cask docker (macOS), by: ' +
    'docker run -it --platform linux/amd64 node:22-bookworm bash'
  );
}

function platformFault(host: Host): string | undefined {
  if (host.platform !== 'linux' || host.arch !== 'x64')
    return `this machine is ${host.platform} ${host.arch}`;
  if (host.glibc === undefined) return 'this system has another C library';
  if (!isAtLeast(host.glibc, OLDEST_GLIBC)) return `this system has glibc ${host.glibc}`;
  if (host.cpuFlags.size > 0 && !host.cpuFlags.has('avx')) return 'this processor lacks AVX instructions';
  return undefined;
}

function isAtLeast(version: string, least: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const [leastMajor = 0, leastMinor = 0] = least.split('.').map(Number);
  return major > leastMajor || (major === leastMajor && minor >= leastMinor);
}

function glibcVersion(): string | undefined {
  if (process.platform !== 'linux') return undefined;
  const report = process.report.getReport() as { header?: { glibcVersionRuntime?: string } };
  return report.header?.glibcVersionRuntime;
}

function cpuFlags(): ReadonlySet<string> {
  try {
    const line = /^flags\s*:\s*(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'));
    return new Set(line?.[1]?.split(' ') ?? []);
  } catch {
    return new Set();
  }
}

import test from 'ava';
import { bf16Instructions, precisionWarning } from '../../../src/trainer/engine/device.ts';
import { thisHost, unsupportedPlatform } from '../../../src/trainer/engine/platform.ts';
import { missingTools } from '../../../src/trainer/engine/prerequisites.ts';
import { progressPrinter } from '../../../src/trainer/engine/progress.ts';
import { HOST } from './machine.ts';

/** A machine on which these commands fail. */
function without(...broken: readonly string[]) {
  return (command: string, args: readonly string[]) =>
    Promise.resolve(!broken.includes([command, ...args].join(' ')));
}

test('nothing is missing where every tool runs', async (t) => {
  t.is(await missingTools(['python3', 'pip', 'g++'], without()), undefined);
});

test('a missing compiler is one sentence with the command for each system', async (t) => {
  t.is(
    await missingTools(['python3', 'pip', 'g++'], without('g++ --version')),
    'g++ is missing, and the tensor engine cannot be installed without; install with: ' +
      'sudo apt-get install -y g++ (Debian, Ubuntu), sudo dnf install -y gcc-c++ (Fedora), ' +
      'xcode-select --install (macOS)',
  );
});

test('a Python without pip is told from no Python at all', async (t) => {
  t.regex(
    (await missingTools(['python3', 'pip'], without('python3 -m pip --version'))) ?? '',
    /^pip is missing/,
  );
  const none = without('python3 --version', 'python3 -m pip --version');
  t.is(
    await missingTools(['python3', 'pip'], none),
    'python3, pip are missing, and the tensor engine cannot be installed without; install with: ' +
      'sudo apt-get install -y python3 python3-pip (Debian, Ubuntu), ' +
      'sudo dnf install -y python3 python3-pip (Fedora), brew install python (macOS)',
  );
});

test('a tool that is not needed is not looked for', async (t) => {
  t.is(await missingTools(['g++'], without('python3 --version')), undefined);
});

test('this machine runs the engine', (t) => {
  t.is(unsupportedPlatform(thisHost()), undefined);
});

test('each reason against a platform is named, with a way to run the engine all the same', (t) => {
  const reasons: readonly (readonly [Parameters<typeof unsupportedPlatform>[0], RegExp])[] = [
    [{ ...HOST, platform: 'darwin', arch: 'arm64' }, /this machine is darwin arm64;/],
    [{ ...HOST, arch: 'arm64' }, /this machine is linux arm64;/],
    [{ ...HOST, platform: 'win32' }, /this machine is win32 x64;/],
    [{ ...HOST, glibc: undefined }, /this system has another C library;/],
    [{ ...HOST, glibc: '2.17' }, /this system has glibc 2\.17;/],
    [{ ...HOST, cpuFlags: new Set(['sse2']) }, /this processor lacks AVX instructions;/],
  ];
  for (const [host, reason] of reasons) {
    const sentence = unsupportedPlatform(host) ?? '';
    t.regex(sentence, reason);
    t.regex(
      sentence,
      /apt-get install.*\(Debian, Ubuntu\).*dnf install.*\(Fedora\).*brew install.*\(macOS\)/,
    );
    t.regex(sentence, /docker run -it --platform linux\/amd64/);
  }
  t.is(
    unsupportedPlatform({ ...HOST, cpuFlags: new Set() }),
    undefined,
    'unknown instructions are no reason',
  );
});

test('a trainer that was asked for bf16 and cannot warns, and only then', (t) => {
  const device = { kind: 'cpu', name: 'Abacus', precision: 'bf16' } as const;
  t.is(precisionWarning({ ...device, isPrecisionNative: true }), null);
  t.is(
    precisionWarning({ ...device, isPrecisionNative: false }),
    'precision bf16 brings nothing here, products are in f32: it needs a processor with AVX512-BF16 or AMX, and this is Abacus',
  );
});

test('bf16 needs AMX or AVX512-BF16', (t) => {
  t.is(bf16Instructions(new Set(['amx_bf16', 'avx512_bf16'])), 'AMX');
  t.is(bf16Instructions(new Set(['avx512_bf16'])), 'AVX512-BF16');
  t.is(bf16Instructions(new Set(['avx512f', 'avx2'])), undefined);
});

/** What a stream is given for a download that is followed by another stage. */
function printed(isTTY: boolean): string {
  let text = '';
  const stream = { isTTY, write: (part: string) => (text += part) };
  const print = progressPrinter(stream, 'engine: ');
  for (const share of [0, 0.1, 0.2, 0.3, 0.99]) print({ message: 'downloading', share });
  print({ message: 'unpacking' });
  return text;
}

test('progress in a log is a line per stage and per quarter', (t) => {
  t.is(
    printed(false),
    'engine: downloading 0%\nengine: downloading 30%\nengine: downloading 99%\nengine: unpacking\n',
  );
});

test('progress on a terminal rewrites its line and leaves the last state of each stage', (t) => {
  const lines = printed(true).split('\n');
  t.is(lines.length, 3);
  t.is(lines[0]?.split('\r').length, 5);
  t.true(lines[0]?.endsWith('engine: downloading 99%\x1b[K'));
  t.is(lines[1], 'engine: unpacking\x1b[K');
});

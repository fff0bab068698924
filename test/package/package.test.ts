/** The package as `npm pack` makes it: what is in it, and that it is enough. `npm run try-package` trains with it. */
import { execFile } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import test from 'ava';

const run = promisify(execFile);
const ROOT = join(import.meta.dirname, '..', '..', '..');
const MAX_PACKED_BYTES = 2_000_000;
const MAX_UNPACKED_BYTES = 8_000_000;

interface Packed {
  readonly filename: string;
  readonly size: number;
  readonly unpackedSize: number;
  readonly files: readonly { readonly path: string }[];
}

/** A project with the package in it, and its dependencies as links to those of the checkout. */
interface Project {
  readonly folder: string;
  readonly installed: string;
  readonly packed: Packed;
  readonly paths: readonly string[];
}

async function makeProject(): Promise<Project> {
  const folder = mkdtempSync(join(tmpdir(), 'galore-package-'));
  const { stdout } = await run('npm', ['pack', '--json', '--pack-destination', folder], { cwd: ROOT });
  const [packed] = JSON.parse(stdout) as [Packed];
  const modules = join(folder, 'node_modules');
  const installed = join(modules, 'galore-swarm');
  mkdirSync(installed, { recursive: true });
  await run('tar', ['-xzf', join(folder, packed.filename), '-C', installed, '--strip-components', '1']);
  const { dependencies, optionalDependencies } = readJson(join(installed, 'package.json'));
  for (const name of [...Object.keys({ ...dependencies, ...optionalDependencies }), '@types/node']) {
    mkdirSync(dirname(join(modules, name)), { recursive: true });
    symlinkSync(join(ROOT, 'node_modules', name), join(modules, name));
  }
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }');
  return { folder, installed, packed, paths: packed.files.map(({ path }) => path) };
}

function readJson(path: string): Record<string, Record<string, string>> {
  return JSON.parse(readFileSync(path, 'utf8')) as Record<string, Record<string, string>>;
}

const project = makeProject();

test.after.always(async () => rmSync((await project).folder, { recursive: true, force: true }));

test('the package has the program, the engine’s sources and the licence, and nothing of the checkout', async (t) => {
  const { packed, paths } = await project;
  for (const path of [
    'bin/galore.js',
    'dist/src/cli/index.js',
    'dist/src/index.d.ts',
    'dist/src/trainer/network-thread.js',
    'proto/generated/messages.js',
    'src/trainer/engine/step-kernels.cc',
    'vendor/tfjs-node-gpu/binding/tfjs_backend.cc',
    'vendor/tfjs-node-gpu/dist/index.js',
    'LICENSE',
    'README.md',
  ]) {
    t.true(paths.includes(path), path);
  }
  const stray =
    /^(test|bench|dist\/(test|bench|examples)|node_modules|runs)\/|_test\.js$|\.map$|\.stamp$|(?<!\.d)\.ts$/;
  t.deepEqual(
    paths.filter((path) => stray.test(path)),
    [],
  );
  t.true(packed.size < MAX_PACKED_BYTES, `${packed.size} bytes packed`);
  t.true(packed.unpackedSize < MAX_UNPACKED_BYTES, `${packed.unpackedSize} bytes unpacked`);
});

test('every file that a file of the package names is in it', async (t) => {
  const { installed, paths } = await project;
  const scripts = paths.filter((path) => /^(bin|dist|scripts)\/.*\.m?js$/.test(path));
  t.true(scripts.length > 100);
  const missing = scripts.flatMap((path) => {
    const text = readFileSync(join(installed, path), 'utf8');
    const named = text.matchAll(
      /(?:\bfrom|\bimport\(|\bimport|new URL\()\s*'(\.{1,2}\/[^']+\.(?:m?js|json))'/g,
    );
    return (
      [...named]
        .map(([, name]) => resolve(installed, dirname(path), name!))
        // setup.mjs is of a checkout, and the page gets uPlot from the package of that name.
        .filter(
          (file) => !existsSync(file) && !/\/(scripts\/setup\.mjs|dashboard\/uPlot\.esm\.js)$/.test(file),
        )
        .map((file) => `${path}: ${file}`)
    );
  });
  t.deepEqual(missing, []);
});

test('nothing that is depended on has a script to install TensorFlow', (t) => {
  const { packages } = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { hasInstallScript?: boolean; dev?: boolean }>;
  };
  const scripted = Object.entries(packages).filter(
    ([, { hasInstallScript, dev }]) => hasInstallScript && !dev,
  );
  t.deepEqual(
    scripted.map(([path]) => path.replace(/^.*node_modules\//, '')).toSorted(),
    ['bufferutil', 'core-js'], // a module that is built already, and a request for donations
  );
});

test('the command runs from the package, and says what is missing of a broken one', async (t) => {
  const { folder, installed } = await project;
  const galore = (...args: string[]): Promise<{ stdout: string; stderr: string }> =>
    run(process.execPath, [join(installed, 'bin/galore.js'), ...args], { cwd: folder });
  const { stdout } = await galore('--help');
  t.regex(stdout, /Usage: galore/);
  t.regex((await galore('plan', join(installed, 'examples/sotu.yaml'))).stdout, /galore/);
  const broken = join(folder, 'broken');
  mkdirSync(join(broken, 'bin'), { recursive: true });
  writeFileSync(join(broken, 'package.json'), '{ "type": "module" }');
  writeFileSync(join(broken, 'bin/galore.js'), readFileSync(join(installed, 'bin/galore.js')));
  const error = await t.throwsAsync(run(process.execPath, [join(broken, 'bin/galore.js')]));
  t.regex(error!.message, /this installation lacks its dist folder; reinstall/);
});

test('the library’s types resolve without other files, and so do the programs of docs/api.md', async (t) => {
  const { folder } = await project;
  const document = readFileSync(join(ROOT, 'docs/api.md'), 'utf8');
  const programs = [...document.matchAll(/^```ts\n(.*?)^```/gms)].map(([, program]) => program!);
  t.true(programs.length >= 3);
  const wrong = `import { Coordinator, Trainer, type RunReport } from 'galore-swarm';
export const report = (of: RunReport): number | null => (of.type === 'step' ? of.loss : null);
export const nested = (): Promise<Coordinator> =>
  Coordinator.start({ config: { name: 'x', model: '60m', data: { path: 'a.txt' }, steps: 3, optimizer: { lr: 0.1 } } });
// @ts-expect-error -- a trainer needs an address
void Trainer.start({ id: 'x' });
// @ts-expect-error -- steps are a number
void Coordinator.start({ config: { name: 'x', model: '60m', data: { path: 'a.txt' }, steps: 'three' } });
`;
  const files = [...programs, wrong].map((text, index) => {
    const file = join(folder, `program-${index}.ts`);
    writeFileSync(file, text);
    return file;
  });
  const tsc = join(ROOT, 'node_modules/typescript/bin/tsc');
  const flags = ['--noEmit', '--strict', '--module', 'nodenext', '--target', 'es2022', '--types', 'node'];
  const outcome = await run(process.execPath, [tsc, ...flags, ...files], { cwd: folder }).catch(
    (error: { stdout: string }) => error,
  );
  t.is(outcome.stdout, '');
});

/**
 * Turns proto/galore.proto into code and compiles everything to dist/. Each result is made aside and then
 * renamed, with the stamp of its sources inside: an interrupted or failed build leaves the one before it.
 */
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { withLock } from './lock.mjs';
import { hashFiles, readStamp, replaceFolder, writeStamp } from './stamp.mjs';
import { isVendored, vendorTfjs } from './vendor.mjs';

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const STAMP = '.stamp';
const PAGE_FILE = /\.(html|css|svg)$/;

/** Builds what is not up to date (everything with `force`). The caller holds the lock of the set-up. */
export function build({ root = ROOT, force = false } = {}) {
  removeLeftovers(root);
  if (force || !isProtocolBuilt(root)) buildProtocol(root);
  if (force || !isCompiled(root)) compile(root);
  if (!isVendored(root)) vendorTfjs(root);
}

/** True if dist/ and the protocol code were made from the sources as they are now. */
export function isBuilt(root = ROOT) {
  return isProtocolBuilt(root) && isCompiled(root) && isVendored(root);
}

function buildProtocol(root) {
  const fresh = join(root, '.setup', `generated-${process.pid}`);
  mkdirSync(fresh, { recursive: true });
  const flags = ['-t', 'static-module', '-w', 'esm', '--dts', '-o', join(fresh, 'messages.js')];
  run(root, 'protobufjs-cli/bin/pbjs', [...flags, 'proto/galore.proto'], 'the protocol code');
  writeStamp(join(fresh, STAMP), protocolKey(root));
  replaceFolder(fresh, join(root, 'proto/generated'));
}

function compile(root) {
  const fresh = join(root, `dist-${process.pid}`); // as deep as dist/: the source maps hold relative paths
  const key = sourcesKey(root); // before the compiler reads them: a file saved meanwhile means another build
  try {
    run(root, 'typescript/bin/tsc', ['-p', '.', '--outDir', fresh], 'the TypeScript sources');
    if (existsSync(join(root, 'dashboard'))) compilePage(root, fresh);
    writeStamp(join(fresh, STAMP), key);
    replaceFolder(fresh, join(root, 'dist'));
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
}

/** The status page: its scripts for the browser, and what goes with them as it is. */
function compilePage(root, fresh) {
  run(root, 'typescript/bin/tsc', ['-p', 'dashboard', '--outDir', fresh], 'the status page');
  for (const name of readdirSync(join(root, 'dashboard')).filter((name) => PAGE_FILE.test(name)))
    copyFileSync(join(root, 'dashboard', name), join(fresh, 'dashboard', name));
}

function isProtocolBuilt(root) {
  return (
    readStamp(join(root, 'proto/generated', STAMP)) === protocolKey(root) &&
    existsSync(join(root, 'proto/generated/messages.js')) &&
    existsSync(join(root, 'proto/generated/messages.d.ts'))
  );
}

function isCompiled(root) {
  return readStamp(join(root, 'dist', STAMP)) === sourcesKey(root);
}

function protocolKey(root) {
  return hashFiles(root, ['proto/galore.proto', 'package-lock.json', 'scripts/build.mjs']);
}

function sourcesKey(root) {
  const settings = ['tsconfig.json', 'package.json', 'package-lock.json', 'scripts/build.mjs'];
  const sources = ['src', 'test', 'bench', 'examples', 'scripts', 'dashboard', 'proto/galore.proto'];
  return hashFiles(root, [...settings, ...sources], (path) => /\.m?ts$/.test(path) || PAGE_FILE.test(path));
}

/** A build that was killed leaves its folders; the lock says that none of them is in use. */
function removeLeftovers(root) {
  for (const name of readdirSync(root)) {
    if (/^dist-\d+(-old)?$/.test(name)) rmSync(join(root, name), { recursive: true, force: true });
  }
  if (!existsSync(join(root, '.setup'))) return;
  for (const name of readdirSync(join(root, '.setup'))) {
    if (/^(generated|vendor)-/.test(name))
      rmSync(join(root, '.setup', name), { recursive: true, force: true });
  }
}

function run(root, tool, args, what) {
  const program = join(root, 'node_modules', tool);
  const result = spawnSync(process.execPath, [program, ...args], { cwd: root, stdio: 'inherit' });
  if (result.error) throw result.error;
  if (result.status !== 0) throw new Error(`${what} could not be built; the messages above say why`);
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  try {
    await withLock(join(ROOT, '.setup/lock'), () => build({ force: true }));
  } catch (error) {
    console.error(`build: ${error.message}`);
    process.exitCode = 1;
  }
}

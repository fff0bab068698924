/**
 * Copies tfjs' package for Node to vendor/, from where `npm pack` takes it: without its installer, which would
 * download another TensorFlow into every project, and what only that needs (docs/decisions/0004-package.md).
 * A checkout itself uses the package in node_modules.
 */
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { hashFiles, readStamp, replaceFolder, writeStamp } from './stamp.mjs';

const PLACE = 'vendor/tfjs-node-gpu';
const SOURCE = 'node_modules/@tensorflow/tfjs-node-gpu';
const STAMP = '.stamp';
/** How the package finds its addon: by a package of its installer. */
const FINDS_ADDON = /var binary = require\('@mapbox\/node-pre-gyp'\);\nvar bindingPath = .*;\n/;
/** How the copy does: it is told (src/trainer/engine/tfjs-package.ts). */
const IS_TOLD = "var bindingPath = globalThis[Symbol.for('galore-swarm.addon')];\n";

/** True if the copy was made from what is installed, or nothing is. */
export function isVendored(root) {
  const wanted = key(root);
  return wanted === undefined || readStamp(join(root, PLACE, STAMP)) === wanted;
}

/** Makes the copy of what is loaded and what is compiled. */
export function vendorTfjs(root) {
  const from = join(root, SOURCE);
  const fresh = join(root, '.setup', `vendor-${process.pid}`);
  rmSync(fresh, { recursive: true, force: true });
  mkdirSync(fresh, { recursive: true });
  const isLoaded = (path) => !/(_test\.js|run_tests\.js|\.d\.ts|\.map)$/.test(path);
  cpSync(join(from, 'dist'), join(fresh, 'dist'), { recursive: true, filter: isLoaded });
  cpSync(join(from, 'binding'), join(fresh, 'binding'), { recursive: true });
  const { name, version, main, license, repository } = read(from, 'package.json');
  const index = join(fresh, main);
  const text = readFileSync(index, 'utf8');
  if (!FINDS_ADDON.test(text)) throw new Error(`${name} ${version} finds its addon in a way that is new`);
  writeFileSync(index, text.replace(FINDS_ADDON, IS_TOLD));
  const changes = 'tests, typings and installer left out; index.js takes the addon it is told to take';
  const description = `A part of ${name}, changed for galore-swarm: ${changes}.`;
  const described = { name, version, description, main, license, repository };
  writeFileSync(join(fresh, 'package.json'), `${JSON.stringify(described, null, 2)}\n`);
  writeStamp(join(fresh, STAMP), key(root));
  mkdirSync(join(root, 'vendor'), { recursive: true });
  replaceFolder(fresh, join(root, PLACE));
}

function key(root) {
  if (!existsSync(join(root, SOURCE))) return undefined;
  return `${read(join(root, SOURCE), 'package.json').version} ${hashFiles(root, ['scripts/vendor.mjs'])}`;
}

function read(folder, file) {
  return JSON.parse(readFileSync(join(folder, file), 'utf8'));
}
